"""The autoencoder: its error by hand."""

from collections.abc import Callable

import torch
from torch import Tensor

from networks import Inputs
from networks.detectors.ae import AEDetector, AEOutput

MakeImages = Callable[..., Tensor]


def test_loss_and_score_are_the_squared_error() -> None:
    detector = AEDetector(width=8, code=8)
    detector.input_mean.fill_(0.5)
    detector.input_std.fill_(0.25)
    inputs = Inputs(
        torch.tensor([0.5, 0.75, 0.25, 1.0]).view(1, 1, 2, 2)
    )  # 0, 1, -1, 2 once normal
    output = AEOutput(torch.tensor([0.0, 0.0, 1.0, 2.0]).view(1, 1, 2, 2))
    assert float(detector.loss(output, inputs, "train")["loss"]) == 5 / 4
    found = detector.evidence(output, inputs)
    assert found.maps["residual"].flatten().tolist() == [0.0, 1.0, 4.0, 0.0]
    assert found.values["residual"].tolist() == [5 / 4] and found.reconstruction is not None
    assert found.reconstruction.flatten().tolist() == [0.5, 0.5, 0.75, 1.0]


def test_any_channels_and_any_sides_of_16(make_images: MakeImages) -> None:
    detector = AEDetector(in_channels=3, width=8, code=8)
    image = make_images(2, channels=3, height=32, width=48)
    assert detector(Inputs(image)).reconstruction.shape == image.shape
