"""Are wrong inputs called out of scope, and right ones not? No training is needed to know.

``python -m benchmarks.scope --dataset_dir <data> --layout <layout>`` learns the scope of a data set
from its training and calibration part, as a training does, and asks of its test cases: as they are,
and made wrong in some twenty ways. ``--others`` names folders, or modalities with ``--modalities``,
whose cases are of another kind.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from networks.scope import TURNED, Scope
from pipelines.data import CaseLoader, NormalSlices, Regions, find_anatomy, open_data
from pipelines.data.layouts import read_cohort
from pipelines.scoring import fit_scope
from transforms.augment import gaussian_blur
from transforms.errors import InputError
from transforms.mild import mild_changes
from transforms.recipe import withheld_recipe
from transforms.synthetic import SyntheticAnomalies


def _unit(image: Tensor) -> float:
    return min(image.shape[-2:]) / 224


def _cropped(image: Tensor, top: float, left: float, share: float) -> Tensor:
    height, width = image.shape[-2:]
    rows, columns = (
        slice(int(a * n), int((a + share) * n)) for a, n in ((top, height), (left, width))
    )
    return F.interpolate(image[..., rows, columns], size=(height, width), mode="bilinear")


def _small(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    half = F.interpolate(image, size=(height // 2, width // 2), mode="bilinear")
    above, left = height // 4, width // 4
    return F.pad(half, (left, width - width // 2 - left, above, height - height // 2 - above))


def _mixed(image: Tensor) -> Tensor:
    side = min(image.shape[-2:]) // 8
    fields = F.unfold(image, side, stride=side)
    order = torch.randperm(fields.shape[-1], generator=torch.Generator().manual_seed(0))
    size = (image.shape[-2] // side * side, image.shape[-1] // side * side)
    mixed = F.fold(fields[..., order], size, side, stride=side)
    return F.interpolate(mixed, size=image.shape[-2:], mode="nearest")


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: TURNED[name] for name in ("upside down", "mirrored", "inverted")},
    "turned clockwise": TURNED["turned counter-clockwise"],
    "middle, 2 times": lambda x: _cropped(x, 0.25, 0.25, 0.5),
    "upper left quarter": lambda x: _cropped(x, 0.0, 0.0, 0.5),
    "lower right quarter": lambda x: _cropped(x, 0.5, 0.5, 0.5),
    "half as large": _small,
    "shifted by half": lambda x: x.roll(x.shape[-1] // 2, -1),
    "fields mixed": _mixed,
    "twice beside itself": lambda x: torch.cat([x[..., ::2], x[..., ::2]], dim=-1)[
        ..., : x.shape[-1]
    ],
    "blur of 4 px": lambda x: gaussian_blur(x, 4 * _unit(x)),
    "blur of 8 px": lambda x: gaussian_blur(x, 8 * _unit(x)),
    "noise of 0.2": lambda x: (x + 0.2 * torch.randn(x.shape)).clamp(0, 1),
    "nothing but noise": lambda x: torch.rand(x.shape),
    "constant": lambda x: torch.full_like(x, 0.5),
    "empty": torch.zeros_like,
    "3 times as bright": lambda x: (3 * x).clamp(0, 1),
    "10 times as dark": lambda x: x / 10,
    "gamma 4": lambda x: x**4,
    "two levels": lambda x: (x > x.mean()).float(),
    "a cross of lines": lambda x: torch.maximum(x, _cross(x)),
}
"""Ways to be wrong; images are ``(K, C, H, W)`` in [0, 1]."""


def _cross(image: Tensor) -> Tensor:
    lines = torch.zeros_like(image)
    lines[..., image.shape[-2] // 2 - 8 : image.shape[-2] // 2 + 8, :] = 1.0
    lines[..., image.shape[-1] // 2 - 8 : image.shape[-1] // 2 + 8] = 1.0
    return lines


def line(name: str, scope: Scope, cases: Iterable[Tensor]) -> str:
    """A row of the table: how many cases are out of scope, and the most frequent reason."""
    reasons = [scope(images).reason() for images in cases if len(images)]
    found = Counter(filter(None, reasons))
    told = found.most_common(1)[0][0] if found else ""
    return f"| {name} | {sum(found.values())} of {len(reasons)} | {told} |"


def images_of(cases: Sequence[Any], loader: CaseLoader) -> list[Tensor]:
    """The slices of each case that can be read."""
    found = []
    for case in cases:
        try:
            found.append(loader(case).images)
        except InputError as error:
            print(f"refused: {case.name}: {error}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--modalities")
    parser.add_argument("--fractions", type=float, nargs=3, default=(0.6, 0.2, 0.2))
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--region", default="auto")
    parser.add_argument("--others", nargs="*", default=[])
    options = parser.parse_args(arguments)
    data = open_data(
        options.dataset_dir, options.layout, options.modalities, fractions=options.fractions
    )
    regions = Regions(options.region, find_anatomy(options.dataset_dir, options.layout))
    volumetric = data.cohort.volumetric
    loader = CaseLoader(options.image_size, channels=1, volumetric=volumetric)
    training, held_out = (
        NormalSlices(cases, loader, regions=regions)
        for cases in (data.split.train, data.split.calibration)
    )
    scope = fit_scope(training, held_out, SyntheticAnomalies(withheld_recipe(regions.kind, None)))
    right = images_of(data.split.test, loader)
    print("| input | out of scope | most often because |\n|---|---|---|")
    for label, name in ((0, "normal"), (1, "anomalous"), (None, "with lesions")):
        own = [one for case, one in zip(data.split.test, right, strict=True) if case.label == label]
        if own:
            print(line(f"right, {name}", scope, own))
    for name, change in mild_changes(1.0).items():
        print(line(f"right, {name}", scope, (change(one) for one in right)))
    for name, change in WRONG.items():
        print(line(name, scope, (change(one) for one in right)))
    for other in options.others:
        if volumetric and "/" not in other:
            cohort = read_cohort(data.cohort.root, data.cohort.layout, other)
        else:
            cohort = read_cohort(other, "normals")
        cases = cohort.cases[:100]
        print(line(other.rstrip("/").rsplit("/", 1)[-1], scope, images_of(cases, loader)))


if __name__ == "__main__":
    main()
