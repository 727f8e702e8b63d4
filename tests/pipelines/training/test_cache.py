"""Features that are computed once per image."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from networks import AnomalyScorer, Inputs
from pipelines.training.cache import FeatureCache

MakeScorer = Callable[..., AnomalyScorer]
MakeImages = Callable[..., Tensor]


def test_the_cache_encodes_each_image_once(
    make_scorer: MakeScorer, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, images = make_scorer().detector, make_images(4)
    counted: list[int] = []
    encode = detector.encode

    def count(inputs: Inputs) -> list[Tensor]:
        counted.append(len(inputs.image))
        features: list[Tensor] = encode(inputs)
        return features

    monkeypatch.setattr(detector, "encode", count)
    cache = FeatureCache(detector)
    index = torch.tensor([2, 0])
    first = cache.encode(Inputs(images[index]), index, 4)
    again = cache.encode(Inputs(images[index.flip(0)]), index.flip(0), 4)
    assert counted == [2]
    torch.testing.assert_close(again[0], first[0].flip(0))
    found = cache.encode(Inputs(images), torch.arange(4), 4)  # only some are known
    assert counted == [2, 2]
    torch.testing.assert_close(found, encode(Inputs(images)))
    small = FeatureCache(detector, max_gigabytes=1e-6)
    for _ in range(2):
        small.encode(Inputs(images), torch.arange(4), 4)
    assert counted == [2, 2, 4, 4] and small.features == []


def test_cached_features_are_those_of_the_normalised_images(
    make_scorer: MakeScorer, make_images: MakeImages
) -> None:
    detector, images = make_scorer(strides=(8, 16)).detector, make_images(3)
    detector.input_mean.fill_(0.4)
    cache = FeatureCache(detector)
    expected = detector.network.encode(images - 0.4)
    for _ in range(2):  # the second time from the cache
        found = cache.encode(Inputs(images), torch.arange(3), 3)
        torch.testing.assert_close(found, expected)
    assert cache.known.all()
