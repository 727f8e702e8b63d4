"""What the tests of all runs share: cases that are not scored, and a tracking that takes notes."""

import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from networks import make_fusion
from pipelines.batch.case_run import Gathered
from pipelines.data.cases import Case, Cohort, FailedCase
from pipelines.data.cohort import Data
from pipelines.data.splits import Split
from pipelines.metrics.pixel import PixelHistogram
from pipelines.metrics.rows import ScoreRow
from pipelines.outputs.examples import Example
from pipelines.runs import session
from pipelines.scoring.model_file import MODEL_NAME


class FakeTracker:
    """Notes what is asked of it."""

    where = "off"
    pages: dict[str, str] = {}
    active = True

    def __init__(self) -> None:
        self.told: list[str] = []
        self.parameters: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}
        self.artifacts: list[str] = []
        self.tags: dict[str, str] = {}
        self.data: dict[str, dict[str, int]] = {}

    def start(self, parameters: dict[str, Any], tags: dict[str, str]) -> None:
        self.parameters = dict(parameters)
        self.tags |= tags
        self.told.append(f"start {tags['kind']}")

    def log_data(self, name: str, digest: str, context: str, profile: dict[str, int]) -> None:
        self.data[context] = profile

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        self.metrics |= metrics

    def set_tags(self, tags: dict[str, str]) -> None:
        self.tags |= tags

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        assert path.exists()
        self.artifacts.append(path.name)

    def guard(self) -> "FakeTracker":
        return self

    def __enter__(self) -> None:
        self.told.append("enter")

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.told.append("leave" if kind is None else "fail")

    def finish(self) -> None:
        self.told.append("finish")

    def stop(self) -> None:
        self.told.append("stop")

    def close_dead(self, state: dict[str, Any]) -> None:
        self.told.append(f"close {state['name']}")

    def state_dict(self) -> dict[str, Any]:
        return {"name": "a run"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.told.append(f"again {state['name']}")


class FakeCases:
    """Scores nothing: gives the rows when run."""

    def __init__(
        self,
        output_dir: Path,
        rows: list[ScoreRow],
        failures: int = 0,
        error: Exception | None = None,
    ) -> None:
        self.output_dir = output_dir
        self.model_path = output_dir.parent / "models" / MODEL_NAME
        self.dataset, self.save_panels = [0] * 7, False
        self.rows = rows
        self.failures = [FailedCase(Case(f"f{n}", "p", ()), f"cut {n}") for n in range(failures)]
        self.error = error

    def run(self) -> Gathered:
        if self.error is not None:
            raise self.error
        pixels, mask = PixelHistogram(), np.eye(8, dtype=bool)
        for patient in ("p0", "p1"):
            pixels.add(patient, 3.0 * mask, mask)
        image = np.zeros((8, 8), np.float32)
        shown = Example("detected", "c", 0, 1.0, image, image, {"anomaly_map": image}, None)
        return Gathered(self.rows, pixels, {}, [shown], {"c": b"JPEG"}, self.failures)


def ten_slices() -> list[ScoreRow]:
    """Ten slices of five volumes and one of unknown label; a row for the first volume."""
    rows: list[ScoreRow] = [
        ScoreRow(
            case=f"c{i // 2}",
            patient=f"p{i // 2}",
            level="slice",
            slice=i,
            label=i % 2,
            score=float(i),
            parts={"flow": float(i), "recon": 0.5 * i},
            percentile=10.0 * i,
            flagged=i > 1,
            baselines={"sharpness": -1.0, "mean": 0.1 * i},
        )
        for i in range(10)
    ]
    unknown = replace(rows[0], case="c8", label=None, score=50.0)
    whole = replace(rows[0], level="volume", slice=None, label=1, score=99.0, percentile=None)
    return [*rows, unknown, whole]


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Sessions that do not finish go on listening."""
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def rows() -> list[ScoreRow]:
    return ten_slices()


@pytest.fixture
def make_cases() -> Callable[..., Any]:
    """Makes cases of a folder that give rows, failures or an error."""

    def make(output_dir: Path, rows: list[ScoreRow] | None = None, **how: Any) -> FakeCases:
        return FakeCases(output_dir, ten_slices() if rows is None else rows, **how)

    return make


@pytest.fixture
def tracker() -> Any:
    return FakeTracker()


@pytest.fixture
def evaluator() -> Any:
    """An engine on the CPU with a calibrated scorer."""
    calibration = SimpleNamespace(
        threshold=torch.tensor(1.5),
        pixel_threshold=torch.tensor(2.5),
        n_normal=torch.tensor(40),
        n_patients=torch.tensor(20),
        target_fpr=torch.tensor(0.05),
        quantiles=torch.linspace(0, 1, 5),
    )
    return SimpleNamespace(
        scorer=SimpleNamespace(
            calibration=calibration,
            detector=SimpleNamespace(config={"hidden": 64, "seed": 9}),
            fusion=make_fusion(weights={"flow": 0.75, "head": 0.25, "dark": 0.0}),
        ),
        state=SimpleNamespace(device="cpu"),
        reference=None,
    )


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """A picture of three patients each, one per part of the split."""
    cases = tuple(Case(name, name, (), label=0) for name in "abc")
    cohort = Cohort("folder", tmp_path, cases, ("image",), False)
    return Data(cohort, Split(cases[:1], cases[1:2], cases[2:]), ("a note",))


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What reports are made of."""
    found: list[Any] = []

    def write(folder: Path, content: Any) -> Path:
        found.append(content)
        (folder / "report.html").write_text("report")
        if content.history:
            (folder / "curves.png").write_text("curves")
        return folder / "report.html"

    monkeypatch.setattr(session, "ReportContent", SimpleNamespace)
    monkeypatch.setattr(session, "write_report", write)
    monkeypatch.setattr(session, "viewer_volumes", lambda cases, gathered: ["a volume"])
    return found


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What the run has told so far."""
    caplog.set_level(logging.INFO, logger="pipelines")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)
