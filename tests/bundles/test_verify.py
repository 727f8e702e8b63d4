"""MONAI's own check of the network against the metadata."""

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import verify_net_in_out

BUNDLE = Path(__file__).parents[2] / "bundles" / "aeflow"


def verify(config: str, trained: Path, **options: Any) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(BUNDLE / "metadata.json"),
        config_file=str(BUNDLE / config),
        device="cpu",
        ckpt_dir=str(trained / "models"),
        **options,
    )


@pytest.mark.parametrize("n", [1, 2, 6])
@pytest.mark.parametrize("config", ["train.json", "evaluate.json", "inference.json"])
def test_the_network_is_what_the_metadata_says(config: str, n: int, trained: Path) -> None:
    verify(config, trained, n=n)


@pytest.mark.parametrize("config", ["evaluate.json", "inference.json"])
def test_the_check_sees_a_wrong_entry(config: str, trained: Path) -> None:
    entry = "_meta_::network_data_format::{}"
    with pytest.raises(ValueError, match="channel number `1` doesn't match: `2`"):
        verify(config, trained, **{entry.format("outputs::pred::num_channels"): 2})
    with pytest.raises(ValueError, match="dtype of output data .* doesn't match"):
        verify(config, trained, **{entry.format("outputs::pred::dtype"): "float64"})
    with pytest.raises(ValueError, match="expected shape .B, 1, H, W"):
        verify(config, trained, **{entry.format("inputs::image::num_channels"): 4})
    assert torch.is_grad_enabled()
