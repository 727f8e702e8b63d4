import json
from pathlib import Path

import pytest
import torch

from benchmarks.throughput import Reproduction, main
from networks.loss import bits_per_dimension


def test_every_variant_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--encoder", "resnet18", "--image_size", "32", "--batch_size", "1", "--channels", "1"]
    brief = ["--rounds", "2", "--iterations", "1", "--no_compile", "--device", "cpu"]
    main([*small, *brief, "--output", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    told = [(one["phase"], one["name"]) for one in found["variants"]]
    names = ("ours, same arithmetic", "ours")
    assert set(told) == {
        *((phase, "reproduction, fp32") for phase in ("training", "scoring")),
        *((phase, name) for phase in ("training", "scoring", "score_image") for name in names),
    }
    assert all(one["images_per_second"] > 0 and one["gflop"] > 0 for one in found["variants"])
    assert "| training | ours, same arithmetic |" in capsys.readouterr().out


def test_the_reproduction_s_log_det_is_that_of_its_flow() -> None:
    torch.manual_seed(0)
    network, image = Reproduction("resnet18", 1, 32).eval(), torch.rand(2, 1, 32, 32)
    output = network(image)
    (features,) = network.encoder(image)
    latent, log_det = network.flow(features)
    assert output.reconstruction.shape == image.shape
    torch.testing.assert_close(output.latents[0], latent)
    torch.testing.assert_close(output.log_dets[0].sum(dim=(1, 2)), log_det)
    assert torch.isfinite(bits_per_dimension(output))
