"""Where synthetic anomalies may lie."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data import regions
from pipelines.data.cases import Case
from pipelines.data.datasets import NormalSlices
from pipelines.data.regions import Regions, choose_contrast
from pipelines.data.slices import CaseLoader
from transforms.errors import InputError
from transforms.regions import LungMasks

WriteVolume = Callable[..., Path]


def picture(folder: Path, name: str, half: int = 0) -> Path:
    """A grey picture ``(40, 20)``; from `half` on, a mask of its lower rows."""
    folder.mkdir(exist_ok=True)
    values = np.full((40, 20), 200, dtype=np.uint8)
    values[:, ::2] = 100
    if half:
        values[:half] = 0
    Image.fromarray(values).save(folder / f"{name}.png")
    return folder / f"{name}.png"


@pytest.fixture
def cases(tmp_path: Path) -> tuple[Case, ...]:
    images = [picture(tmp_path / "images", name) for name in ("a", "b", "c")]
    return tuple(Case(path.stem, path.stem, (path,), label=0) for path in images)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        picture(tmp_path / "masks", name, half=20)
    return tmp_path / "masks"


@pytest.mark.parametrize(
    ("region", "anatomy", "kind"),
    [
        ("auto", None, "body"),
        ("auto", "chest", "lungs"),
        ("auto", "retina", "body"),
        ("body", "chest", "body"),
        ("lungs", None, "lungs"),
    ],
)
def test_the_anatomy_decides_unless_told(region: str, anatomy: str | None, kind: str) -> None:
    assert Regions(region, anatomy).kind == kind


def test_contrast_likewise() -> None:
    asked = [("auto", None), ("auto", "chest"), ("none", "chest"), ("local", None)]
    assert [choose_contrast(*one) for one in asked] == ["none", "local", "none", "local"]


def test_the_body_is_the_region_of_all_others(cases: tuple[Case, ...]) -> None:
    dataset = NormalSlices(cases, CaseLoader(32))
    assert torch.equal(dataset.context["region"], dataset.context["body"])
    batch = dataset.__getitems__([1, 2])
    assert batch["region"].shape == (2, 1, 32, 32) and batch["region"].dtype == torch.bool


def test_masks_of_a_folder_come_onto_the_canvas(cases: tuple[Case, ...], masks: Path) -> None:
    dataset = NormalSlices(cases, CaseLoader(40), regions=Regions(str(masks)))
    region = dataset.context["region"]
    assert region.shape == (3, 1, 40, 40) and region.dtype == torch.bool
    assert not region[:, :, :20].any() and region[:, :, 20:, 10:30].all()
    assert not (region & ~dataset.context["body"]).any()


def test_masks_of_a_volume_are_cut_like_it(write_volume: WriteVolume, tmp_path: Path) -> None:
    values = np.zeros((24, 24, 6), dtype=np.uint8)
    values[8:16, 8:16, 2:4] = 1
    case = Case("v", "p", (write_volume("image"),), label=0, region=write_volume("where", values))
    loader = CaseLoader(24, slice_range=(1, 4))
    region = NormalSlices([case], loader).context["region"]
    assert region.flatten(1).sum(dim=1).tolist() == [0, 64, 64, 0]
    without = NormalSlices([case], loader, regions=Regions("body")).context
    assert torch.equal(without["region"], without["body"])


def test_what_lacks_a_mask_is_named(cases: tuple[Case, ...], masks: Path) -> None:
    (masks / "b.png").unlink()
    with pytest.raises(InputError, match="region: 1 of 3 normal cases have no mask: b"):
        Regions(str(masks)).assigned(cases)
    some = (replace(cases[0], region=masks / "a.png"), *cases[1:])
    with pytest.raises(InputError, match="region: 2 of 3 normal cases have no mask: b, c"):
        Regions().assigned(some)
    assert Regions("lungs").assigned(some)[0].region is None
    with pytest.raises(InputError, match="region: expected auto, body, lungs or a folder.*'lung'"):
        Regions("lung")


@pytest.mark.parametrize(("count", "processes"), [(100, 1), (101, -1)])
def test_lungs_are_looked_for_in_all_images_at_once(
    monkeypatch: pytest.MonkeyPatch, count: int, processes: int
) -> None:
    asked: list[Any] = []

    def find(images: torch.Tensor, processes: int, shown: Any) -> LungMasks:
        asked.append(processes)
        assert list(shown([0])) == [0]
        return LungMasks(images[:, 0] > 0.5, torch.ones(len(images), dtype=torch.bool))

    monkeypatch.setattr(regions, "lung_masks", find)
    images = torch.rand(count, 1, 8, 8)
    found = Regions("lungs").masks(images, {"body": torch.ones(count, 1, 8, 8).bool()})
    assert torch.equal(found, images > 0.5) and asked == [processes]
