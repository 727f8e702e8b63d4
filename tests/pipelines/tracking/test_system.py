"""The machine's load in the tracking."""

import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.tracking.link import EXPERIMENT
from pipelines.tracking.system import INTERVAL_VARIABLE
from pipelines.tracking.tracker import Tracker
from transforms.errors import InputError


def test_the_load_is_sampled_until_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INTERVAL_VARIABLE, "0.01")
    tracker = Tracker(str(tmp_path), f"sqlite:///{tmp_path / 'runs.db'}", system_metrics=True)
    tracker.start({})
    tracker.log_metrics({"loss": 1.0})
    tracker.finish()
    client = MlflowClient(tracking_uri=tracker.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    name = "system/system_memory_usage_percentage"
    history = client.get_metric_history(run.info.run_id, name)
    assert history and all(0 < one.value <= 100 for one in history)
    assert run.info.start_time <= history[0].timestamp <= history[-1].timestamp
    assert history[-1].timestamp <= run.info.end_time and run.data.metrics["loss"] == 1.0


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="system_metrics: .* tracking is off"):
        Tracker(str(tmp_path), "none", system_metrics=True)
    for name in [one for one in sys.modules if one.startswith("mlflow.system_metrics.metrics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(InputError, match="system_metrics: needs .*psutil.*pip install psutil"):
        Tracker(str(tmp_path), "sqlite:///runs.db", system_metrics=True)
