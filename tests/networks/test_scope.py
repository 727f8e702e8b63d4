"""Whether an image is of the kind that a model was made for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from networks.scope import BEYOND, REASONS, TURNED, Scope
from transforms.augment import gaussian_blur


def bodies(count: int, seed: int) -> Tensor:
    """Pictures that lie alike: a bright oval, a darker field in it, fine structure."""
    source = torch.Generator().manual_seed(seed)
    place = torch.linspace(-1, 1, 64)
    y, x = place[:, None], place[None, :]
    own = [torch.rand(count, 1, 1, 1, generator=source) * 0.1 for _ in range(3)]
    oval = (((x - own[0]) / 0.7) ** 2 + ((y - own[1]) / 0.9) ** 2 < 1).float()
    field = (((x + 0.3) / 0.2) ** 2 + ((y + 0.4) / 0.3) ** 2 < 1).float()
    fine = gaussian_blur(torch.randn(count, 1, 64, 64, generator=source), 1.0)
    return (gaussian_blur(oval * (0.7 - own[2] - 0.4 * field), 1.0) + 0.05 * fine * oval).clamp(
        0, 1
    )


@pytest.fixture(scope="module")
def scope() -> Scope:
    """Of such pictures, somewhat darker or not."""
    normal, plain, held_out = bodies(200, 0), bodies(40, 1), bodies(100, 2)
    found = Scope(1)
    found.fit(normal, plain, plain**1.1, torch.cat([held_out, held_out**1.1]))
    return found


def reasons(scope: Scope, images: Tensor) -> list[str]:
    return [scope(image[None]).reason() for image in images]


def test_other_pictures_of_the_kind_are_in_scope(scope: Scope) -> None:
    assert sum(map(bool, reasons(scope, bodies(200, 3)))) <= 2
    assert not scope(bodies(20, 4)).reason()


@pytest.mark.parametrize("name", [name for name in TURNED if name != "inverted"])
def test_a_turned_picture_is_named(scope: Scope, name: str) -> None:
    images = bodies(10, 5)
    turned = {"turned clockwise": 3, "turned counter-clockwise": 1}
    wrong = images.rot90(turned[name], (-2, -1)) if name in turned else TURNED[name](images)
    assert set(reasons(scope, wrong)) == {f"it seems {name}"}


def test_an_inverted_picture_is_named(scope: Scope) -> None:
    assert set(reasons(scope, 1 - bodies(10, 5))) == {"it seems inverted"}


@pytest.mark.parametrize(
    ("group", "change"),
    [
        ("detail", lambda image: gaussian_blur(image, 5.0)),
        ("detail", lambda image: (image + 0.3 * torch.rand(image.shape)).clamp(0, 1)),
        ("levels", lambda image: (3 * image).clamp(0, 1)),
        ("levels", lambda image: image / 10),
        ("arrangement", lambda image: image.roll((20, 20), (-2, -1))),
    ],
)
def test_what_is_wrong_is_named(
    scope: Scope, group: str, change: Callable[[Tensor], Tensor]
) -> None:
    found = scope(change(bodies(10, 6)))
    assert found.reason() in REASONS.values()
    assert found.beyond.median(dim=0).values[list(REASONS).index(group)] > BEYOND[group]


def test_most_slices_decide_for_a_volume(scope: Scope) -> None:
    good, bad = bodies(10, 7), bodies(10, 8) / 10
    assert not scope(torch.cat([good[:7], bad[:3]])).reason()
    assert scope(torch.cat([good[:3], bad[:7]])).reason()


def test_images_of_another_site_can_be_taken_in(scope: Scope) -> None:
    site = gaussian_blur(bodies(60, 9), 2.5)
    assert scope(site).reason()
    wider = Scope(1)
    wider.load_state_dict(scope.state_dict())
    wider.widen(site)
    assert not wider(gaussian_blur(bodies(20, 10), 2.5)).reason()
    assert (wider.limits >= scope.limits).all()
    assert wider(bodies(20, 11).flip(-2)).reason()
