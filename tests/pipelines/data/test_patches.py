"""Volumes as patches: where they lie, what they hold, and which options cannot be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.data.cases import Case
from pipelines.data.datasets import NormalSlices, slice_loader
from pipelines.data.patches import NormalPatches, as_seen
from pipelines.data.slices import CaseLoader
from transforms.errors import InputError


@pytest.fixture
def cases(write_volume: Any) -> list[Case]:
    """Volumes of 20, 20 and 3 slices; slice 11 of the second shows a lesion."""
    lesion = np.zeros((24, 24, 20), dtype=np.uint8)
    lesion[8:14, 8:14, 11] = 1
    shapes = {"a": (24, 24, 20), "b": (24, 24, 20), "c": (24, 24, 3)}
    found = [Case(n, f"p{n}", (write_volume(n, shape=s),), label=0) for n, s in shapes.items()]
    found[1] = replace(found[1], label=None, mask=write_volume("mask", lesion))
    return found


def test_patches_are_cut_from_stretches_of_normal_slices(cases: list[Case]) -> None:
    loader = CaseLoader(32, patch_size=(8, 16, 32), overlap=0.5, min_body_fraction=0.0)
    slices = NormalSlices(cases, loader)
    patches = as_seen(slices)
    assert isinstance(patches, NormalPatches)
    assert as_seen(NormalSlices(cases, CaseLoader(32, min_body_fraction=0.0))) is not patches
    assert list(map(len, slices.stretches)) == [20, 11, 8, 3]
    # along: 4 patches in 20 slices, 2 in 11, 1 in 8 and 1 in 3; rows: 3; columns: 1
    assert len(patches) == 3 * (4 + 2 + 1 + 1)
    batch = patches.__getitems__([1, len(patches) - 1])
    assert batch["image"].shape == (2, 1, 8, 16, 32) and batch["body"].dtype == torch.bool
    assert batch["place"].shape == (2, 8 + 16 + 32) and batch["case"].tolist() == [0, 2]
    assert torch.equal(batch["image"][0, :, 3], slices.images[3][:, 8:24])
    whole = slices.context["place"]
    expected = torch.cat([whole[:8, 0], whole[0, 1 + 8 : 1 + 24], whole[0, 33:]])
    assert torch.equal(batch["place"][0], expected)
    last = slices.images[-3:, :, 16:].movedim(0, 1)  # continued with its last slice
    assert torch.equal(batch["image"][1], last[:, [0, 1, 2, 2, 2, 2, 2, 2]])


def test_slices_are_scored_by_stretches_and_patches_in_batches(cases: list[Case]) -> None:
    loader = CaseLoader(32, patch_size=(8, 32, 32), min_body_fraction=0.0)
    slices = NormalSlices(cases, loader)
    found = list(slice_loader(slices, batch_size=4))
    assert [len(one["image"]) for one in found] == [20, 11, 8, 3]
    assert found[2]["slice"].tolist() == list(range(12, 20))
    patches = slice_loader(as_seen(slices), batch_size=3, seed=0, phase="train")
    assert next(iter(patches))["image"].shape == (3, 1, 8, 32, 32)


def test_a_loader_is_rebuilt_by_its_parameters() -> None:
    loader = CaseLoader(32, patch_size=[16, 32, 32], overlap=0.25)
    again = CaseLoader(**loader.parameters)
    assert again.patch_size == (16, 32, 32) and again.overlap == 0.25 and again.volumetric
    assert "patch_size" not in CaseLoader(32).parameters  # models of slices are as they were


def test_patches_that_cannot_be_are_told(tmp_path: Path, picture: Case) -> None:
    with pytest.raises(InputError, match="at most image_size, 32 x 32, found 48 x 32"):
        CaseLoader(32, patch_size=[16, 48, 32])
    with pytest.raises(InputError, match="expected volumes .* found pictures"):
        CaseLoader(32, patch_size=[16, 32, 32], volumetric=False)
    with pytest.raises(InputError, match="expected a volume"):
        CaseLoader(32, patch_size=[16, 32, 32])(picture)
