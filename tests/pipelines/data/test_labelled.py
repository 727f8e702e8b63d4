"""A few labelled anomalies beside the normal images."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data.cohort import Data, open_data
from pipelines.data.labelled import LabelledAnomalies, labelled_kind
from pipelines.data.slices import CaseLoader, CaseSample
from transforms.errors import InputError
from transforms.slices import to_canvas

WriteVolume = Callable[..., Path]


def pictures(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in names:
        levels = rng.integers(1, 256, (24, 24), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Ten normal pictures, of a patient each."""
    root = tmp_path / "data"
    pictures(root / "train" / "normal", [f"n{i}" for i in range(10)])
    pictures(root / "test" / "normal", ["t0"])
    pictures(root / "test" / "anomalous", ["t1"])
    return open_data(str(root), "folder")


def as_canvas(sample: CaseSample) -> torch.Tensor:
    assert sample.masks is not None
    return to_canvas(sample.masks[:, None], sample.geometry, "nearest").bool()


def table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("path", "patient", "label", "mask", "split"))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_without_a_path_there_are_none(data: Data) -> None:
    found = LabelledAnomalies(None, data, CaseLoader(32))
    assert not found and found.cases == () and labelled_kind(None) is None


def test_all_images_of_a_folder_are_anomalous(data: Data, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "sick", ["a", "b", "c"])
    found = LabelledAnomalies(str(folder), data, CaseLoader(32))
    assert labelled_kind(str(folder)) == "images" and [case.label for case in found.cases] == [
        1,
        1,
        1,
    ]
    image, body, mask = found.slices
    assert image.shape == body.shape == mask.shape == (3, 1, 32, 32)
    assert body.all() and mask.isnan().all()
    source = torch.Generator().manual_seed(0)
    drawn = found.drawn(50, source)
    assert len(drawn.image) == 50
    assert {float(one.sum()) for one in drawn.image} == {float(one.sum()) for one in image}
    again = found.drawn(50, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.image, again.image)


@pytest.mark.parametrize("patch_size", [None, (2, 16, 16)])
def test_masks_say_where_and_which_slices(
    patch_size: tuple[int, ...] | None, write_volume: WriteVolume, tmp_path: Path
) -> None:
    """Or which patches of volumes: those that show the lesion."""

    def case(name: str, split: str, lesion: bool) -> dict[str, Any]:
        lesion_mask = np.zeros((24, 24, 6), np.uint8)
        lesion_mask[8:12, 8:14, 2:4] = 1
        values = np.random.default_rng(0).normal(100, 20, lesion_mask.shape) + 80 * lesion_mask
        values[:3] = values[-3:] = values[:, :3] = values[:, -3:] = 0
        image = write_volume(f"{name}_image", values.astype(np.float32))
        mask = write_volume(f"{name}_mask", lesion_mask)
        return {
            "path": image,
            "patient": name,
            "mask": mask if lesion else "",
            "split": split,
            "label": "" if lesion else "normal",
        }

    normals = [case(f"n{i}", "train", False) for i in range(6)]
    trained = open_data(str(table(tmp_path / "all", [*normals, case("t", "test", True)])))
    sick = table(tmp_path / "sick", [case("s", "", True), case("healthy", "", False)])
    loader = CaseLoader(32, min_lesion_pixels=1, patch_size=patch_size)
    found = LabelledAnomalies(str(sick), trained, loader)
    assert labelled_kind(str(sick)) == "masks" and [one.patient for one in found.cases] == ["s"]
    sample = found.transform(found.cases[0])
    image, body, mask = found.slices
    assert image.shape == body.shape == mask.shape
    if patch_size is None:
        assert len(image) == int((sample.labels == 1).sum()) > 0
    else:
        shown = as_canvas(sample)  # of all places in it, those that reach the lesion
        tiles = [(k, r, c) for k in range(5) for r in (0, 8, 16) for c in (0, 8, 16)]
        crops = [shown[k : k + 2, 0, r : r + 16, c : c + 16] for k, r, c in tiles]
        expected = [one for one in crops if one.any()]
        assert 0 < len(expected) < len(tiles) and mask.shape == (len(expected), 1, *patch_size)
        assert torch.equal(mask[:, 0].bool(), torch.stack(expected))
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.flatten(1).any(dim=1).all()
    assert image[mask > 0].mean() > 1.3 * image[(mask == 0) & body].mean()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: folder / "nowhere", "labelled_anomalies: .*nowhere does not exist"),
        (lambda folder: pictures(folder / "sick", ["t1"]), "1 of its patients are among those"),
        (lambda folder: pictures(folder / "sick", []), "labelled_anomalies: "),
        (
            lambda folder: table(
                folder / "sick",
                [{"path": pictures(folder / "p", ["x"]) / "x.png", "patient": "x", "label": "0"}],
            ),
            "names no case that is labelled anomalous",
        ),
    ],
)
def test_mistakes_are_told(
    make: Callable[[Path], Path], told: str, data: Data, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=told):
        LabelledAnomalies(str(make(tmp_path)), data, CaseLoader(32))


def test_volumes_do_not_go_with_pictures(
    data: Data, write_volume: WriteVolume, tmp_path: Path
) -> None:
    write_volume("v")
    folder = tmp_path / "volumes"
    folder.mkdir()
    next(tmp_path.glob("v*.nii*")).rename(folder / "v.nii.gz")
    with pytest.raises(InputError, match="differs from dataset_dir in kind"):
        LabelledAnomalies(str(folder), data, CaseLoader(32))
