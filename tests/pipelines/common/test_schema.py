"""What options take."""

from typing import Any

import pytest
import torch

from pipelines.common.schema import Options, check_values, require_part, takes
from transforms.errors import InputError


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 96},
        {"image_size": [192, 256]},
        {"slice_range": [25, 130]},
        {"modalities": ["flair", "t2"]},
        {"cases": 123},
        {"learning_rate": 1},
        {"pretrain_minutes": 0.5},
        {"device": "cpu"},
        {"max_epochs": None},
        {"max_epochs": "@epochs"},
        {"unknown": object()},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_what_fits_passes(options: dict[str, Any]) -> None:
    check_values(options)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max_epochs", 0, "expected a whole number from 1, found 0."),
        ("max_epochs", True, "expected a whole number from 1, found True."),
        ("max_epochs", "3", "expected a whole number from 1, found '3'."),
        ("seed", 1.5, "expected a whole number from 0, found 1.5."),
        ("learning_rate", 0, "expected a number above 0, found 0."),
        ("cache_gigabytes", -1, "expected a number from 0, found -1."),
        ("alpha", 1.1, "expected a number from 0 to 1, found 1.1."),
        ("flow_pool", 0, "expected a number above 0, up to 1, found 0."),
        ("target_fpr", 1, "expected a rate between 0 and 1, such as 0.05 for 5 %, found 1."),
        ("very_suspicious", 100, "expected a percentile from 0 to below 100, found 100."),
        ("n4", "yes", "expected True or False, found 'yes'."),
        ("image_size", 100, "[192,256], found 100."),
        ("image_size", [], "[192,256], found []."),
        ("image_size", [96, 96, 96], "[192,256], found [96, 96, 96]."),
        ("slice_range", [130, 25], "such as [25,130], found [130, 25]."),
        ("slice_range", [-1, 25], "such as [25,130], found [-1, 25]."),
        ("fractions", [0.5, 0.5], "such as [0.6,0.2,0.2], found [0.5, 0.5]."),
        ("encoder", "resnet19", "found 'resnet19'. Did you mean 'resnet18'?"),
        ("device", "gpu", "expected auto, cpu, cuda or cuda:<number>, found 'gpu'."),
        ("dataset_dir", 5, "expected a path, found 5."),
    ],
)
def test_what_does_not_fit_is_told(name: str, value: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        check_values({name: value})
    assert str(caught.value).startswith(f"{name}: expected ")
    assert str(caught.value).endswith(said)


def test_a_missing_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_values({"device": "cuda:0"})
    with pytest.raises(InputError, match="PyTorch finds 1 CUDA devices here. Leave the option out"):
        check_values({"device": "cuda:1"})


@pytest.mark.parametrize("name", Options.model_fields)
def test_every_option_says_what_it_means_and_takes(name: str) -> None:
    assert takes(name) and Options.model_fields[name].description


def test_what_stands_in_place_of_a_part_is_told() -> None:
    require_part("scorer", torch.nn.Identity(), torch.nn.Module)
    with pytest.raises(InputError, match="scorer: expected Module, found 'x'. Undo"):
        require_part("scorer", "x", torch.nn.Module)
