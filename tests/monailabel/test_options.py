"""What the operator sets with --conf; needs no label environment."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from transforms.errors import InputError

APP = Path(__file__).parents[2] / "bundles" / "monailabel"


@pytest.fixture(scope="module")
def options() -> Any:
    place = importlib.util.spec_from_file_location("label_options", APP / "lib" / "options.py")
    assert place and place.loader
    module = importlib.util.module_from_spec(place)
    sys.modules[place.name] = module
    place.loader.exec_module(module)
    yield module
    del sys.modules[place.name]


def test_the_defaults_are_the_bundle_beside_the_app(options: Any) -> None:
    found = options.read_options(APP, {"models": "aeflow"})
    assert found.bundle == APP.parent / "aeflow"
    assert found.ckpt_dir == found.bundle / "models"
    assert found.very_suspicious == 99.9 and found.batch_size == 32
    assert found.auto_score is None and not found.any_address and found.origins == ()


def test_values_are_taken(options: Any, tmp_path: Path) -> None:
    given = {
        "ckpt_dir": str(tmp_path),
        "very_suspicious": "99.5",
        "batch_size": "4",
        "auto_score": "False",
        "origins": "https://a.example, http://b.example:81/",
        "train": '{"max_epochs": 2, "n4": true}',
    }
    found = options.read_options(APP, given)
    assert found.ckpt_dir == tmp_path and found.very_suspicious == 99.5
    assert found.batch_size == 4 and found.auto_score is False
    assert found.origins == ("https://a.example", "http://b.example:81")
    assert found.train == {"max_epochs": 2, "n4": True}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("very_suspicous", "99", "Did you mean 'very_suspicious'?"),
        ("very_suspicious", "100", "from 0 to 99.99, found '100'"),
        ("very_suspicious", "nan", "from 0 to 99.99, found 'nan'"),
        ("batch_size", "0", "expected a number from 1, found '0'"),
        ("batch_size", "inf", "expected a number from 1, found 'inf'"),
        ("any_address", "yes", "expected true or false, found 'yes'"),
        ("auto_score", "maybe", "expected true or false, found 'maybe'"),
        ("models", "deepedit", "expected aeflow, found 'deepedit'"),
        ("origins", "*", "expected e.g. https://viewer.example"),
        ("origins", "https://a.example/path", "expected e.g. https://viewer.example"),
        ("train", "[1]", "expected a JSON object"),
        ("train", "{", "expected a JSON object"),
        ("bundle", "nowhere", "expected a folder that holds train.json"),
    ],
)
def test_a_wrong_value_is_told(options: Any, name: str, value: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        options.read_options(APP, {"models": "aeflow", name: value})
    assert told in str(caught.value) and f"--conf {name}" in str(caught.value)
