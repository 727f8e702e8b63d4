import json
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.properties import MetaProperties

ROOT = Path(__file__).parents[2]
METADATA: dict[str, Any] = json.loads((ROOT / "bundles/aeflow/metadata.json").read_text())


def test_every_property_that_monai_knows_is_there() -> None:
    parser = ConfigParser()
    parser.read_meta(METADATA)
    for name, described in MetaProperties.items():
        assert described["id"] in parser, name


def test_versions_are_the_tested_ones() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    claimed = {
        "monai": METADATA["monai_version"],
        "torch": METADATA["pytorch_version"],
        "numpy": METADATA["numpy_version"],
        **METADATA["required_packages_version"],
    }
    assert {name: tested[name] for name in claimed} == claimed
    assert METADATA["version"] in METADATA["changelog"]
