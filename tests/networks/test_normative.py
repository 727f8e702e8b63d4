"""What is usual at a place of the body."""

from collections.abc import Iterator

import pytest
import torch
from monai.networks.layers import gaussian_1d
from torch import Tensor

from networks.normative import (
    GRID,
    NormativeMap,
    _kernel,
    as_images,
    as_slices,
    by_case,
    smoothed,
)

SLICES, SIDE = 24, 48
Case = tuple[Tensor, Tensor, Tensor]


def places(slices: Tensor) -> Tensor:
    """The places of slices that lie at these positions in [0, 1]; columns are symmetric."""
    rows = torch.linspace(0.1, 0.9, SIDE)
    columns = 0.5 + torch.linspace(-0.4, 0.4, SIDE).abs()
    return torch.cat([slices[:, None], torch.cat([rows, columns]).expand(len(slices), -1)], dim=1)


def disc(radius: float = 0.8) -> Tensor:
    axis = torch.linspace(-1, 1, SIDE)
    return (axis[:, None].square() + axis.square() < radius**2)[None]


def patient(seed: int, slices: Tensor | None = None) -> Case:
    """Bright above and dark below, with a little noise."""
    where = torch.linspace(0.2, 0.8, SLICES) if slices is None else slices
    pattern = torch.linspace(0.8, 0.2, SIDE)[:, None].expand(SIDE, SIDE)
    noise = torch.randn(len(where), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    body = disc().expand(len(where), 1, SIDE, SIDE)
    return (pattern + 0.02 * noise) * body, body, places(where)


def patients(count: int = 4) -> Iterator[Case]:
    return (patient(seed) for seed in range(count))


@pytest.fixture(scope="module")
def fitted() -> NormativeMap:
    found = NormativeMap(1)
    assert found.fit(patients()) > 0.99
    return found


def test_normal_slices_are_usual_everywhere_and_the_background_says_nothing(
    fitted: NormativeMap,
) -> None:
    image, body, place = patient(9)
    found = fitted(image, body, place)
    assert found[body].abs().mean() < 1 and found[body].mean().abs() < 0.1
    assert (found[~body] == 0).all()


@pytest.mark.parametrize(("row", "change"), [(12, -0.3), (36, 0.3)])
def test_what_is_usual_elsewhere_is_strange_here(
    fitted: NormativeMap, row: int, change: float
) -> None:
    image, body, place = patient(9)
    image[10, 0, row - 3 : row + 3, 21:27] += change  # a value that the other half is full of
    found = smoothed(fitted(image, body, place))[10, 0]
    strangest = found.abs().argmax().item()
    assert abs(strangest // SIDE - row) <= 3 and abs(strangest % SIDE - 24) <= 3
    assert found[row, 24].sign() == torch.tensor(change).sign()


def test_left_and_right_are_pooled() -> None:
    one_sided = []
    for seed in range(4):
        image, body, place = patient(seed)
        image[..., :24] += 0.4 * body[..., :24]
        one_sided.append((image, body, place))
    found = NormativeMap(1)
    found.fit(one_sided)
    image, body, place = one_sided[0]
    mirrored = found(image.flip(-1), body, place)
    torch.testing.assert_close(mirrored, found(image, body, place).flip(-1), atol=1e-4, rtol=1e-4)
    assert mirrored[body].abs().mean() < 1.5


def test_two_patients_make_no_place_usual_and_three_do() -> None:
    image, body, place = patient(9)
    for count, placed in ((2, False), (3, True)):
        found = NormativeMap(1)
        found.fit(patients(count))
        assert (found.mean.std() > 0.01) == placed
        assert (found.std > 0).all()
        deviation = found(image, body, place)
        assert (deviation[:, :, 10, 20:28].mean() > 0.5) != placed  # bright above, as is usual


def test_the_smoothing_widens_until_there_are_three_patients() -> None:
    together, spread = NormativeMap(1), NormativeMap(1)
    at = torch.full((4,), 0.5) + torch.linspace(-0.01, 0.01, 4)
    together.fit(patient(seed, at) for seed in range(3))
    spread.fit(patient(seed, at + 0.1 * (seed - 1)) for seed in range(3))
    for found in (together, spread):
        assert found.mean[0, GRID // 2].std() > 0.05
    apart = NormativeMap(1)
    apart.fit(patient(seed, at + 0.4 * (seed - 1)) for seed in range(3))
    assert apart.mean.std() < 1e-6


def test_bodies_of_another_outline_do_not_agree() -> None:
    def shaped(seed: int) -> Case:
        image, body, place = patient(seed)
        part = torch.zeros_like(body)
        part[..., (slice(0, 20), slice(14, 34), slice(28, 48))[seed % 3], :] = True
        return image, body & part, place

    assert NormativeMap(1).fit(shaped(seed) for seed in range(6)) < 0.75


def test_channels_are_averaged() -> None:
    pairs = [(image.repeat(1, 2, 1, 1), body, place) for image, body, place in patients()]
    found = NormativeMap(2)
    found.fit(pairs)
    image, body, place = pairs[0]
    single = NormativeMap(1)
    single.fit(patients())
    expected = single(image[:, :1], body, place)
    torch.testing.assert_close(found(image, body, place), expected, atol=1e-3, rtol=1e-3)


def test_patches_of_volumes_are_taken_slice_by_slice() -> None:
    image, body = torch.rand(6, 2, 8, 10), torch.rand(6, 1, 8, 10) > 0.5
    own, across = torch.rand(6, 1), torch.rand(1, 18).repeat(6, 1)
    patches = [one.unflatten(0, (2, 3)).transpose(1, 2) for one in (image, body)]
    place = torch.cat([own.view(2, 3), across[:2]], dim=1)
    context = {"body": patches[1], "place": place, "case": torch.tensor([0, 1])}
    slices = as_slices(patches[0], context)
    expected = (image, body, torch.cat([own, across], dim=1))
    assert all(torch.equal(one, other) for one, other in zip(slices, expected, strict=True))
    assert torch.equal(as_images(slices[1], patches[0]), patches[1])
    cases = list(by_case([(patches[0], context)]))
    assert [len(one[0]) for one in cases] == [3, 3] and torch.equal(cases[1][0], image[3:])


@pytest.mark.parametrize("sigma", [0.05, 0.7, 4.1])
def test_the_kernel_is_monai_s(sigma: float) -> None:
    expected = gaussian_1d(torch.tensor(sigma), truncated=3.0)
    torch.testing.assert_close(_kernel(sigma, torch.zeros(1)), expected)
