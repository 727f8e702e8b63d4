"""Signals as windows: scale, gaps, labels, parts in time, and the way back."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.cases import Case
from pipelines.data.cohort import open_data, open_data_like, seen_by, seen_content
from pipelines.data.datasets import NormalSlices
from pipelines.data.signals import INNER, SignalLoader, model_loader
from transforms.errors import InputError


def record(path: Path, length: int = 600, gap: tuple = (), events: tuple = ()) -> Case:
    values = np.sin(np.arange(length) / 5) + 10
    values[list(gap)] = np.nan
    labels = np.isin(np.arange(length), events)
    np.savez(path, signal=np.stack([values, 2 * values]), label=labels)
    return Case(path.stem, path.stem, (path,), mask=path)


def test_windows_keep_to_gaps_and_marks(tmp_path):
    case = record(tmp_path / "a.npz", gap=(*range(200, 230), 300), events=(205, 300, 400, 401))
    loader = SignalLoader(32, 16, training=(case,))
    case.images[0].unlink()  # it was read already

    sample = loader(case)

    starts = torch.tensor(sample.geometry.starts)[sample.indices]
    assert {168, 230} < set(starts.tolist())
    assert starts[sample.labels == 1].tolist() == [374, 390]  # not the marks inside gaps
    place = starts[:, None] + torch.arange(32)
    assert torch.equal(sample.body, (place != 300) & ((place < 200) | (place >= 230)))
    assert sample.images.min() >= 0.2 and sample.images.max() <= 0.8
    trace = sample.on_grid(sample.restored(sample.images)[:, 1]).numpy()
    assert np.array_equal(np.isfinite(trace), sample.signal.seen)
    assert np.allclose(trace[sample.signal.seen], sample.signal.values[1, sample.signal.seen])


def test_the_scale_is_that_of_the_training_signals_or_the_own(tmp_path):
    case = record(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.stack([np.sin(np.arange(600) / 5) + 11, np.ones(600)]))
    other = Case("b", "b", (tmp_path / "b.npy",), label=0)
    trained = SignalLoader(32, training=(case,))

    high = trained(other).images[:, 0].mean()
    own = SignalLoader(32, intensity="file")(other).images

    assert high > 0.7 > own[:, 0].mean() > 0.3
    assert (own[:, 1] == sum(INNER) / 2).all()  # a channel that never changes
    again = model_loader({"preprocessing": trained.parameters})
    assert torch.equal(again(other).images, trained(other).images)
    with pytest.raises(InputError, match="smaller --window"):
        SignalLoader(601, intensity="file")(other)


def test_one_recording_is_divided_in_time(tmp_path):
    case = record(tmp_path / "rec.npz", length=4000, events=tuple(range(3900, 3920)))

    data = open_data(str(tmp_path), windows=(32, 8))

    split = data.split
    assert split.train[0].span == (0, 2400) and split.test[0].span == (3232, 4000)
    assert len(split.calibration) == 7 == len(split.patients("calibration"))
    parts = [split.train, split.calibration, split.test]
    loader = SignalLoader(32, 8, training=split.train)
    for one, other in combinations(parts, 2):
        assert min(b.span[0] - a.span[1] for a in one for b in other) >= 32
    assert loader(split.test[0]).labels.sum() > 0
    assert (loader(split.test[0]).signal.time[:1] == 3232).all()
    assert len(NormalSlices(split.calibration, loader)) == sum(
        len(loader(one).images) for one in split.calibration
    )
    assert "1 source only (rec), divided in time" in data.notes[0]
    model = {
        "split": split.as_dict(), "seen": seen_content(data), "notes": [], "volumetric": True,
        "modalities": list(data.cohort.modalities), "preprocessing": loader.parameters,
    }  # fmt: skip
    assert open_data_like(model, str(tmp_path)).split.test == split.test
    told = tmp_path / "split.json"
    told.write_text(json.dumps(split.as_dict()))
    assert open_data(str(tmp_path), split=str(told), windows=(64, 8)).split.test == split.test
    assert seen_by(model, [case, *split.test, replace(case, span=(0, 2400))]) == [
        case, replace(case, span=(0, 2400))
    ]  # fmt: skip
    with pytest.raises(InputError, match="too few to be divided in time"):
        open_data(str(tmp_path), windows=(512, None))
