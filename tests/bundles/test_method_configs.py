"""Each method's config puts it in the place of AE-Flow, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from networks import DETECTORS

BUNDLE = Path(__file__).parents[2] / "bundles" / "aeflow"
METHODS = [name for name in DETECTORS if (BUNDLE / f"{name}.json").is_file()]


@pytest.mark.parametrize("name", METHODS)
def test_a_config_builds_its_method(name: str, tmp_path: Path) -> None:
    own = json.loads((BUNDLE / f"{name}.json").read_text())
    train = ConfigParser()
    train.read_config(BUNDLE / "train.json")
    known = {option.rpartition("#")[0] or option for option in own}
    assert [option for option in known if option not in train] == []
    parser = ConfigParser()
    parser.read_config([BUNDLE / "train.json", BUNDLE / f"{name}.json"])
    parser.update({"dataset_dir": str(tmp_path), "modalities": "flair,t2", "contrast": "local"})
    network: Any = parser.get_parsed_content("network_def")
    detector = network.detector
    assert (detector.name, detector.in_channels, detector.contrast) == (name, 2, "local")
    assert DETECTORS[name](**detector.config).parts == detector.parts


def test_the_methods_on_features_have_a_config_each() -> None:
    assert {"anatpaste", "dagmm", "deep_svdd", "fastflow", "padim", "patchcore"} <= set(METHODS)
