import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from monai.bundle import ConfigParser
from monai.bundle.properties import MetaProperties

TEXT = {"type": "string", "minLength": 1}
VERSIONS = {"type": "object", "additionalProperties": TEXT}
TENSOR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"enum": ["image", "series", "tuples", "probabilities"]},
        "format": TEXT,
        "modality": TEXT,
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {
            "type": "array",
            "items": {
                "oneOf": [{"type": "integer", "minimum": 1}, {"enum": ["*"]}, {"pattern": "[np]"}]
            },
            "minItems": 2,
            "maxItems": 2,
        },
        "dtype": TEXT,
        "value_range": {
            "type": "array",
            "items": {"type": "number"},
            "oneOf": [{"maxItems": 0}, {"minItems": 2, "maxItems": 2}],
        },
        "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object", "additionalProperties": TEXT, "minProperties": 1},
    },
}
TENSOR["required"] = list(TENSOR["properties"])
TENSORS = {"type": "object", "additionalProperties": TENSOR}
TEXTS = [
    *("version", "monai_version", "pytorch_version", "numpy_version", "task", "description"),
    *("authors", "copyright", "schema", "intended_use", "data_source", "data_type"),
]
SCHEMA = {
    "type": "object",
    "properties": {
        **{name: TEXT for name in TEXTS},
        "changelog": VERSIONS,
        "required_packages_version": VERSIONS,
        "references": {"type": "array", "items": TEXT},
        "network_data_format": {
            "type": "object",
            "properties": {
                "inputs": {**TENSORS, "required": ["image"]},
                "outputs": {**TENSORS, "required": ["pred"]},
            },
            "required": ["inputs", "outputs"],
        },
    },
    "required": [*TEXTS, "changelog", "required_packages_version", "network_data_format"],
}
"""The content of MONAI's bundle specification; its own schema would have to be downloaded."""

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


def test_the_metadata_follow_monai_s_specification() -> None:
    jsonschema.validate(METADATA, SCHEMA)
    for tensor in METADATA["network_data_format"].values():
        for described in tensor.values():
            channels = described["num_channels"]
            assert set(described["channel_def"]) == {str(index) for index in range(channels)}


@pytest.mark.parametrize(
    "path", [("task",), ("changelog",), ("network_data_format", "inputs", "image", "dtype")]
)
def test_a_missing_entry_is_seen(path: tuple[str, ...]) -> None:
    spoilt = copy.deepcopy(METADATA)
    parent = spoilt
    for name in path[:-1]:
        parent = parent[name]
    del parent[path[-1]]
    with pytest.raises(jsonschema.ValidationError, match=path[-1]):
        jsonschema.validate(spoilt, SCHEMA)
