"""From cases to slices."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data.cases import Case
from pipelines.data.datasets import NormalSlices
from pipelines.data.signals import model_loader
from pipelines.data.slices import CaseLoader
from transforms.errors import InputError
from transforms.readers import read_case
from transforms.slices import Slicer

WriteVolume = Callable[..., Path]
LESION = (1, 3, 4)


def in_file(case: Case) -> torch.Tensor:
    """The axial slices of a file as they are there, ``(N, C, h, w)``."""
    return Slicer().native(read_case(case.images))


def test_a_volume_becomes_slices(volume: Case) -> None:
    sample = CaseLoader(image_size=(32, 48))(volume)
    assert sample.images.shape == (6, 1, 32, 48) and sample.images.dtype == torch.float32
    assert sample.images.min() == 0 and sample.images.max() <= 1
    assert sample.masks is not None and sample.masks.shape == (6, 24, 24)
    assert sample.masks.dtype == torch.bool
    assert sample.masks.sum(dim=(1, 2)).tolist() == [0, 19, 0, 20, 30, 0]
    assert sample.indices.tolist() == list(range(6))
    assert sample.baselines is None
    # The body stands where the raw values do, centred on the canvas.
    assert (sample.images[:, 0, :, :8] == 0).all() and (sample.images[:, 0, :, -8:] == 0).all()
    assert sample.images[:, 0, 12:20, 20:28].min() > 0


@pytest.mark.parametrize(
    ("pixels", "margin", "labels"),
    [
        (20, 0, [0, -1, 0, 1, 1, 0]),
        (19, 0, [0, 1, 0, 1, 1, 0]),
        (31, 0, [0, -1, 0, -1, -1, 0]),
        (20, 1, [0, -1, 0, 1, 1, 0]),  # a difference of one is enough
        (20, 2, [-1, -1, -1, 1, 1, -1]),
    ],
)
def test_slices_are_labelled_by_their_lesion(
    volume: Case, pixels: int, margin: int, labels: list[int]
) -> None:
    sample = CaseLoader(32, min_lesion_pixels=pixels, normal_margin=margin)(volume)
    assert sample.labels.tolist() == labels


def test_slices_scales_and_files_agree(volume: Case) -> None:
    sample = CaseLoader(24, slice_range=[1, 4])(volume)  # nothing is resampled at this size
    for image, raw in zip(sample.images, in_file(volume)[1:5], strict=True):
        body = raw > 0
        assert torch.equal(body, image > 0)
        together = torch.stack([image[body], raw[body]])
        assert torch.corrcoef(together)[0, 1] > 0.999


def test_only_slices_in_range_with_enough_body_are_used(
    volume: Case, write_volume: WriteVolume
) -> None:
    sample = CaseLoader(32, slice_range=[2, 4])(volume)
    assert sample.indices.tolist() == [2, 3, 4] and len(sample.images) == 3
    assert sample.labels.tolist() == [0, 1, 1]
    values = np.random.default_rng(1).uniform(50, 100, (24, 24, 6)).astype(np.float32)
    values[:2] = values[-2:] = values[:, :2] = values[:, -2:] = 0
    values[4:, :, 0] = 0  # a slice that hardly shows the body
    thin = Case("b", "pb", (write_volume("thin", values),), label=0)
    assert CaseLoader(32)(thin).indices.tolist() == [1, 2, 3, 4, 5]
    assert CaseLoader(32, min_body_fraction=0.0)(thin).indices.tolist() == list(range(6))


@pytest.mark.parametrize(("label", "expected"), [(0, 0), (1, -1), (None, -1)])
def test_a_volume_without_mask_tells_of_its_slices_only_if_normal(
    volume: Case, label: int | None, expected: int
) -> None:
    sample = CaseLoader(32)(replace(volume, mask=None, label=label))
    assert sample.masks is None and sample.labels.unique().tolist() == [expected]


@pytest.mark.parametrize("volumetric", [True, False])
def test_the_other_kind_of_file_is_refused(volume: Case, picture: Case, volumetric: bool) -> None:
    right, wrong = (volume, picture) if volumetric else (picture, volume)
    loader = CaseLoader(32, volumetric=volumetric)
    assert len(loader(right).images)
    wanted, found = ("a volume", "a picture") if volumetric else ("a picture", "a volume")
    said = f"{wrong.images[0].name}: expected {wanted} like the training cases, found {found}"
    with pytest.raises(InputError, match=said):
        loader(wrong)


def test_the_grid_and_the_body_are_kept(volume: Case, picture: Case) -> None:
    sample = CaseLoader(32, slice_range=[1, 4])(volume)
    assert sample.header == {"xyzt_units": 0, "qform_code": 0, "sform_code": 2}
    assert torch.equal(sample.body, (in_file(volume) > 0)[1:5, 0])
    flat = CaseLoader(32)(picture)
    assert flat.body.shape == (1, 40, 20) and flat.body.all()  # the black pixels too
    assert (in_file(picture) == 0).any() and flat.header == {"bit_depth": 8}


def test_the_body_lies_on_the_canvas_as_the_image_does(volume: Case, picture: Case) -> None:
    sample = CaseLoader((32, 48), slice_range=[1, 4])(volume)
    body = sample.context["body"]
    assert body.shape == (4, 1, 32, 48) and body.dtype == torch.bool
    shown = sample.images > 0
    assert (body == shown).float().mean() > 0.9 and (shown | ~body).all()
    same = CaseLoader(24)(volume)  # nothing is resampled at this size
    assert torch.equal(same.context["body"], same.images > 0)
    assert torch.equal(same.context["body"][:, 0], same.body)
    flat = CaseLoader(32)(picture).context["body"]
    expected = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    expected[..., 8:24] = True  # the picture is half as wide as the canvas
    assert torch.equal(flat, expected)


def computed_tomogram(write_volume: WriteVolume) -> Case:
    """Air around a body, of which a part is fat: below 0 HU."""
    values = np.full((24, 24, 6), -1000, np.float32)
    values[4:20, 4:20] = np.random.default_rng(0).normal(50, 10, (16, 16, 6))
    values[4:20, 4:9] = np.random.default_rng(1).normal(-100, 5, (16, 5, 6))
    return Case("ct", "ct", (write_volume("ct", values.astype(np.float32)),), label=0)


def unstripped_mr(write_volume: WriteVolume) -> Case:
    """A body in noise that is nowhere 0."""
    values = np.abs(np.random.default_rng(0).normal(0, 2, (24, 24, 6))) + 0.5
    values[4:20, 4:20] = np.random.default_rng(1).normal(100, 10, (16, 16, 6))
    return Case("mr", "mr", (write_volume("mr", values.astype(np.float32)),), label=0)


@pytest.mark.parametrize("make", [computed_tomogram, unstripped_mr])
def test_the_body_means_the_same_in_loader_context_and_baselines(
    write_volume: WriteVolume, make: Callable[[WriteVolume], Case]
) -> None:
    sample = CaseLoader(24, intensity="percentile", with_baselines=True)(make(write_volume))
    expected = torch.zeros(6, 24, 24, dtype=torch.bool)
    expected[:, 4:20, 4:20] = True
    assert torch.equal(sample.body, expected)
    positive = (in_file(sample.case) > 0)[:, 0]  # what stood for it elsewhere
    assert not torch.equal(positive, expected)
    assert torch.equal(sample.context["body"][:, 0], expected)  # of the calibration
    assert sample.baselines is not None
    area = sample.baselines.scores["area"]
    assert area.tolist() == pytest.approx([256 / 576] * 6)
    dataset = NormalSlices([sample.case], CaseLoader(24, intensity="percentile"))
    assert torch.equal(dataset.__getitems__([5, 0])["body"][:, 0], expected[[5, 0]])
    assert dataset[3]["body"].shape == (1, 24, 24)


def test_a_mask_decides_where_a_single_slice_has_no_label(write_volume: WriteVolume) -> None:
    mask = np.zeros((24, 24, 1), dtype=np.uint8)
    image = write_volume("one", shape=(24, 24, 1))
    normal = Case("c", "pc", (image,), mask=write_volume("empty", mask))
    mask[4:10, 4:10] = 1
    anomalous = replace(normal, mask=write_volume("lesion", mask))
    loader = CaseLoader(32)
    assert [loader(case).labels.tolist() for case in (normal, anomalous)] == [[0], [1]]
    assert loader(replace(anomalous, label=0)).labels.tolist() == [0]  # the case's own label


def test_a_picture_is_a_stack_of_one(picture: Case) -> None:
    sample = CaseLoader(32)(picture)
    assert sample.images.shape == (1, 1, 32, 32) and sample.body.shape == (1, 40, 20)
    assert sample.labels.tolist() == [1] and sample.indices.tolist() == [0]
    assert sample.masks is None and sample.images.max() <= 1


def test_another_number_of_channels_is_refused(picture: Case, volume: Case, tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    coloured = replace(picture, images=(tmp_path / "colour.png",))
    repeated = CaseLoader(32, channels=3)(picture)
    assert repeated.images.shape == (1, 3, 32, 32)
    assert torch.equal(repeated.images[:, 0], repeated.images[:, 2])
    with pytest.raises(
        InputError, match=r"colour.png: expected 1 channel.*, found 3.*--channels 3"
    ):
        CaseLoader(32, channels=1)(coloured)
    with pytest.raises(InputError, match=r"image.nii.gz: expected 2 channel.* found 1"):
        CaseLoader(32, channels=2)(volume)  # one modality does not stand for another


@pytest.mark.parametrize("slice_range", [[3], [1, 2, 3], 25])
def test_a_wrong_slice_range_is_told(slice_range: Any) -> None:
    with pytest.raises(InputError, match="slice_range: expected the first and the last slice"):
        CaseLoader(32, slice_range=slice_range)


def test_parameters_rebuild_the_loader(volume: Case) -> None:
    loader = CaseLoader((32, 48), "axial", "percentile", (1, 4), 0.05, 10, 1, 1, True)
    again = CaseLoader(**loader.parameters)
    assert again.parameters == loader.parameters
    assert CaseLoader(32, "coronal").parameters["axis"] == "coronal"
    assert torch.equal(again(volume).images, loader(volume).images)
    assert again(volume).baselines is None and again.volumetric is True
    plain = model_loader({"preprocessing": loader.parameters})
    assert plain.parameters == loader.parameters and plain(volume).baselines is None
