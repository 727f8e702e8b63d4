"""The data sets of training and scoring."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.data import datasets
from pipelines.data.cases import Case, FailedCase
from pipelines.data.datasets import CaseDataset, NormalSlices, case_loader, slice_loader
from pipelines.data.slices import CaseLoader, CaseSample
from transforms.errors import InputError

WriteVolume = Callable[..., Path]


def test_a_case_that_cannot_be_used_says_why(volume: Case, picture: Case) -> None:
    def odd(case: Case) -> Any:
        raise ZeroDivisionError("odd")

    loader = CaseLoader(32, volumetric=True, min_body_fraction=0.0)
    missing = replace(volume, images=(volume.images[0].with_name("gone.nii.gz"),))
    dataset = CaseDataset([missing, volume, picture], loader)
    gone, found, flat = (dataset[index] for index in range(3))
    assert isinstance(gone, FailedCase) and gone.case is missing and "gone" in gone.reason
    assert found.case is volume and "expected a volume" in flat.reason
    broken = CaseDataset([volume], odd)[0]
    assert "failed unexpectedly (ZeroDivisionError: odd)" in broken.reason
    assert str(volume.images[0]) in broken.reason
    empty = CaseDataset([volume], CaseLoader(32, min_body_fraction=1.0))[0]
    assert isinstance(empty, FailedCase)
    assert "image.nii.gz: no slice shows enough of the body" in empty.reason


def test_a_data_set_computes_baselines_when_asked(volume: Case) -> None:
    loader = CaseLoader(32, slice_range=(1, 4))
    assert CaseDataset([volume], loader)[0].baselines is None
    dataset: Any = CaseDataset([volume], loader, baselines=True)
    assert dataset.read.parameters == loader.parameters
    assert len(dataset[0].baselines.scores["intensity"]) == len(dataset[0].indices) == 4


def test_normal_slices_alone_are_kept(volume: Case, write_volume: WriteVolume) -> None:
    normal = Case("b", "pb", (write_volume("other", seed=1),), label=0)
    loader = CaseLoader(32)
    dataset = NormalSlices([volume, normal], loader)
    assert len(dataset) == 3 + 6
    expected = torch.cat([loader(volume).images[[0, 2, 5]], loader(normal).images])
    assert torch.equal(dataset.images, expected)
    batch = dataset.__getitems__([8, 0])
    assert torch.equal(batch["image"], expected[[8, 0]]) and batch["index"].tolist() == [8, 0]
    assert torch.equal(dataset[8]["image"], expected[8]) and int(dataset[8]["index"]) == 8
    lesion = np.ones((24, 24, 6), dtype=np.uint8)
    sick = replace(volume, mask=write_volume("all", lesion))
    assert dataset.case_numbers.tolist() == [0] * 3 + [1] * 6
    places = [loader(case).context["place"][i] for case, i in ((normal, 5), (volume, 0))]
    assert batch["case"].tolist() == [1, 0]
    assert torch.equal(batch["place"], torch.stack(places))
    assert NormalSlices([sick, normal], loader).case_numbers.tolist() == [1] * 6


@pytest.mark.gpu
def test_slices_that_reside_on_a_gpu_are_the_same(make_slices: Any, make_images: Any) -> None:
    dataset = make_slices(make_images(5))
    expected = dataset.__getitems__([4, 0])
    assert dataset.reside(torch.device("cuda"))
    found = dataset.__getitems__([4, 0])
    assert found["image"].is_cuda and not found["index"].is_cuda and not dataset.images.is_cuda
    assert all(torch.equal(found[name].cpu(), value) for name, value in expected.items())


def test_no_normal_slice_is_told(picture: Case) -> None:
    with pytest.raises(InputError, match="no normal slice in 1 case"):
        NormalSlices([picture], CaseLoader(32))


def orders(loader: Any, epochs: tuple[int, ...]) -> list[list[int]]:
    found = []
    for epoch in epochs:
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        found.append([int(i) for batch in loader for i in batch["index"]])
    return found


def test_the_order_is_shuffled_by_epoch_or_not_at_all(make_slices: Any, make_images: Any) -> None:
    dataset = make_slices(make_images(9))
    first = orders(slice_loader(dataset, 5, 1, phase="train"), (1, 2))
    assert orders(slice_loader(dataset, 5, 1, phase="train", num_workers=2), (2, 1)) == first[::-1]
    assert first[0] != first[1] and sorted(first[0]) == list(range(9))
    assert orders(slice_loader(dataset, 4), (1, 2)) == [list(range(9))] * 2
    longer = slice_loader(dataset, 4, 1, phase="train", min_samples=20)
    assert len(longer) == 7  # three rounds of nine
    assert sorted(orders(longer, (1,))[0]) == sorted(list(range(9)) * 3)


def test_no_batch_of_one_slice_is_trained_on(make_slices: Any, make_images: Any) -> None:
    dataset = make_slices(make_images(9))
    assert [len(b["index"]) for b in slice_loader(dataset, 4, 1, phase="train")] == [4, 4]
    assert [len(b["index"]) for b in slice_loader(dataset, 4)] == [4, 4, 1]
    (alone,) = slice_loader(make_slices(make_images(1)), 4, 1, phase="train")
    assert len(alone["index"]) == 1


def test_volumes_come_one_by_one(volume: Case) -> None:
    dataset = CaseDataset([volume, volume], CaseLoader(32, volumetric=True))
    assert [len(batch) for batch in case_loader(dataset, 2)] == [1, 1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_cases_come_in_their_order(volume: Case, picture: Case, num_workers: int) -> None:
    dataset = CaseDataset([volume, picture, volume], CaseLoader(32))
    batches = list(case_loader(dataset, 2, num_workers))
    assert [[sample.case.name for sample in batch] for batch in batches] == [["a", "x"], ["a"]]
    assert len(dataset) == 3


def test_as_many_are_read_at_once_as_there_are_threads(
    volume: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "spare_threads", lambda: 3)
    begun: list[str] = []
    together = threading.Barrier(3, timeout=20)

    def read(case: Case) -> CaseSample:
        begun.append(case.name)
        if len(begun) <= 3:
            together.wait()  # for ever, if one came after the other
        return CaseLoader(32)(case)

    cases = [replace(volume, name=str(number)) for number in range(9)]
    batches = iter(case_loader(CaseDataset(cases, read)))
    (first,) = next(batches)
    assert isinstance(first, CaseSample) and first.case.name == "0" and len(begun) <= 4
    batches.close()  # what was not begun is not read
    assert len(begun) <= 4
    assert not [one for one in threading.enumerate() if one.name.startswith("reader")]
