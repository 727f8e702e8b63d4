import pytest
import torch

from networks.head import DetectionHead


def features(batch: int) -> list[torch.Tensor]:
    return [torch.randn(batch, c, s, s + s // 4) for c, s in ((3, 16), (5, 8), (6, 4))]


def test_logits_have_the_finest_resolution_and_start_low():
    logits = DetectionHead([3, 5, 6], width=16)(features(2))
    assert logits.shape == (2, 1, 16, 20)
    assert logits.mean().item() == pytest.approx(-2.0, abs=1.0)


def test_every_stride_reaches_the_logits():
    head, inputs = DetectionHead([3, 5, 6], width=16), features(1)
    for feature in inputs:
        feature.requires_grad_()
    head(inputs).sum().backward()
    assert all(feature.grad.abs().sum() > 0 for feature in inputs)
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_batch_equals_one_by_one_in_train_mode():
    head, inputs = DetectionHead([3, 5, 6], width=16).train(), features(3)
    together = head(inputs)
    for b in range(3):
        alone = head([feature[b : b + 1] for feature in inputs])
        torch.testing.assert_close(alone[0], together[b], rtol=1e-5, atol=1e-5)


def test_one_stride_is_enough():
    assert DetectionHead([3], width=8)([torch.randn(1, 3, 4, 4)]).shape == (1, 1, 4, 4)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="channels: expected"):
        DetectionHead([])
    with pytest.raises(ValueError, match="width: expected a multiple of 8, got 12"):
        DetectionHead([3], width=12)
    with pytest.raises(ValueError, match="features: expected 1 tensors, got 3"):
        DetectionHead([3])(features(1))
