"""AnatPaste: its loss and activation by hand, its Gaussian against scikit-learn."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from networks import Inputs
from networks.detectors.anatpaste import AnatPaste, AnatPasteOutput
from networks.errors import ArgumentError
from pipelines.data import NormalSlices
from pipelines.training import NormalBatches

MakeImages = Callable[..., Tensor]
MakeSlices = Callable[..., NormalSlices]


def test_the_loss_tells_images_with_an_anomaly() -> None:
    detector, image = AnatPaste(), torch.zeros(3, 1, 32, 32)
    logits = torch.tensor([-1.0, 2.0, 0.5]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    output = AnatPasteOutput(torch.zeros(3, 512, 2, 2), logits)
    mask = torch.zeros(3, 1, 32, 32)
    mask[1, 0, 4, 5] = 1.0
    mask[2] = math.nan  # of which only is known that it holds one
    losses = [math.log1p(math.exp(one)) for one in (-1.0, -2.0, -0.5)]
    found = detector.loss(output, Inputs(image), "pretrain", mask)["loss"]
    assert float(found) == pytest.approx(sum(losses) / 3)
    with pytest.raises(ArgumentError, match="mask: the training needs"):
        detector.loss(output, Inputs(image), "pretrain")


def test_the_logit_is_the_mean_of_the_activations(make_images: MakeImages) -> None:
    detector = AnatPaste().eval()
    output = detector(Inputs(make_images(2, height=64, width=96)))
    assert output.activation.shape == (2, 1, 2, 3)
    of_pooled = detector.classifier(output.pooled[:, :, None, None]).flatten()
    torch.testing.assert_close(output.logit, of_pooled)
    assert torch.equal(detector.detected(output), output.logit)


def test_the_score_is_the_shrunk_mahalanobis_distance(
    make_images: MakeImages, make_slices: MakeSlices
) -> None:
    detector, normal = AnatPaste().eval(), make_images(12)
    detector.prepare(NormalBatches(make_slices(normal)), None)
    inputs = Inputs(make_images(3, seed=1))
    with torch.no_grad():
        known, output = detector(Inputs(normal)).pooled.double(), detector(inputs)
        found = detector.evidence(output, inputs).values["density"]
    expected = LedoitWolf().fit(known.numpy()).mahalanobis(output.pooled.numpy())
    np.testing.assert_allclose(found.numpy(), np.sqrt(expected), rtol=1e-3)
