"""Tracking with MLflow."""

import atexit
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events
from mlflow import MlflowClient

from pipelines.common.progress import EngineProgress
from pipelines.tracking.address import URI_VARIABLE, resolve_uri
from pipelines.tracking.link import EXPERIMENT
from pipelines.tracking.outbox import main
from pipelines.tracking.tracker import EpochTracker, Tracker


def runs(uri: str) -> list[Any]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all runs of this file: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'runs.db'}"


@pytest.fixture
def tracker(database: str, tmp_path: Path) -> Tracker:
    return Tracker(str(tmp_path), database, "test")


def find(tracker: Tracker) -> Any:
    assert tracker.uri is not None
    (found,) = [run for run in runs(tracker.uri) if run.info.run_name == tracker.run_name]
    return found


def test_names_are_unique(tmp_path: Path) -> None:
    names = {Tracker(str(tmp_path), run_name="train").run_name for _ in range(5)}
    assert len(names) == 5 and all(name.startswith("train-") for name in names)


def test_none_does_nothing_at_all(tmp_path: Path) -> None:
    tracker = Tracker(str(tmp_path / "out"), "none")
    tracker.start({"a": 1})
    tracker.log_metrics({"loss": 1.0})
    tracker.log_artifact(tmp_path / "absent")
    with pytest.raises(KeyError), tracker.guard():
        raise KeyError
    tracker.finish()
    assert not tracker.active and tracker.where == "off"
    assert not (tmp_path / "out").exists()


def test_a_whole_run(tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URI_VARIABLE, f"sqlite:///{tmp_path / 'other.db'}")
    long = "x" * 600
    tracker.start({"seed": 3, "long": long, "none": None}, {"phase": "training"})
    assert tracker.active and tracker.run_name in tracker.where
    tracker.log_metrics({"loss": 2.0}, step=1)
    tracker.log_metrics({"loss": 1.0}, step=2)
    tracker.log_metrics({})
    for _ in range(2):  # what arrives twice counts once
        tracker.log_data("brats-flair", "0123456789abcdef", "training", {"train_cases": 3})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    tracker.log_artifact(tmp_path / "folder", "deep")
    tracker.log_artifact(tmp_path / "folder" / "a.txt")
    tracker.set_tags({"mlflow.note.content": "Usable."})
    tracker.finish()
    tracker.fail()  # a finished run stays finished
    run = find(tracker)
    assert run.info.status == "FINISHED" and not tracker.active
    assert run.data.params["seed"] == "3" and run.data.params["none"] == "None"
    assert run.data.params["long"] == "x" * 497 + "..."
    assert run.data.tags["phase"] == "training"
    assert run.data.tags["mlflow.note.content"] == "Usable."
    client = MlflowClient(tracking_uri=tracker.uri)
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    page = f"#/experiments/{experiment.experiment_id}?workflowType=machine_learning"
    assert tracker.pages == {
        "its page": f"mlflow ui --backend-store-uri {tracker.uri}",
        "its runs": f"http://127.0.0.1:5000/{page}",
    }
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("brats-flair", "0123456789abcdef")
    assert json.loads(data.dataset.profile) == {"train_cases": 3}
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(1, 2.0), (2, 1.0)]
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {"deep", "a.txt"}
    # The choice is this run's alone: a later one finds the environment as it was.
    assert os.environ[URI_VARIABLE].endswith("other.db")
    assert not (tmp_path / "other.db").exists()


def test_a_later_run_of_the_process_chooses_its_own_place(tracker: Tracker, tmp_path: Path) -> None:
    tracker.start({})
    tracker.finish()
    assert resolve_uri(None, tmp_path) == f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def test_an_error_in_a_guarded_block_fails_the_run(tracker: Tracker) -> None:
    tracker.start({})
    with pytest.raises(KeyboardInterrupt), tracker.guard():
        raise KeyboardInterrupt
    assert find(tracker).info.status == "FAILED" and not tracker.active
    with tracker.guard():
        pass


def test_a_stopped_run_is_killed_rather_than_failed(tracker: Tracker) -> None:
    tracker.start({})
    with pytest.raises(SystemExit), tracker.guard():
        tracker.stop()
        raise SystemExit(143)
    assert find(tracker).info.status == "KILLED"


@pytest.mark.parametrize("ended", [True, False])
def test_a_resumed_run_is_the_same_run(tracker: Tracker, tmp_path: Path, ended: bool) -> None:
    state = tracker.state_dict()  # saved before the server knows of the run
    tracker.start({"seed": 3, "resume": "never"}, {"phase": "training"})
    tracker.log_metrics({"loss": 2.0}, step=1)
    if ended:
        tracker.stop()
        tracker.fail()
        state = tracker.state_dict()
    atexit.unregister(tracker.fail)
    again = Tracker(str(tmp_path), tracker.uri, "test")
    assert again.run_name != tracker.run_name
    again.load_state_dict(state)
    again.start({"seed": 3, "resume": "auto", "new": 1}, {"phase": "training"})
    run = find(tracker)
    assert again.run_name == tracker.run_name and run.info.status == "RUNNING"
    again.log_metrics({"loss": 1.0}, step=2)
    again.finish()
    run = find(tracker)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "resume": "never", "new": "1"}
    history = MlflowClient(tracking_uri=tracker.uri).get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(1, 2.0), (2, 1.0)]


def test_a_resumed_run_sends_what_the_killed_one_could_not(
    tracker: Tracker, tmp_path: Path
) -> None:
    tracker.start({})
    assert tracker.outbox is not None
    tracker.outbox.lose(ConnectionError())
    tracker.log_metrics({"loss": 2.0}, step=1)
    tracker.outbox.keep()
    atexit.unregister(tracker.fail)
    again = Tracker(str(tmp_path), tracker.uri, "test")
    again.load_state_dict(tracker.state_dict())
    again.start({})
    assert find(tracker).data.metrics == {"loss": 2.0}
    again.finish()
    assert not (tmp_path / "untracked").exists()


def test_a_run_that_died_is_closed_as_failed(tracker: Tracker, tmp_path: Path) -> None:
    tracker.start({})
    atexit.unregister(tracker.fail)
    state = tracker.state_dict()
    other = Tracker(str(tmp_path), tracker.uri, "test")
    other.close_dead(state)
    run = find(tracker)
    assert run.info.status == "FAILED" and run.info.end_time
    other.start({})
    other.finish()
    third = Tracker(str(tmp_path), tracker.uri, "test")
    third.close_dead(other.state_dict())
    assert find(other).info.status == "FINISHED"
    third.close_dead(third.state_dict())  # it never came to the server, and does not now
    assert tracker.uri is not None
    assert third.run_name not in {run.info.run_name for run in runs(tracker.uri)}
    Tracker(str(tmp_path), "none").close_dead(state)
    absent = Tracker(str(tmp_path), "http://127.0.0.1:9", "test")
    absent.close_dead(state)  # told, and passed over


@pytest.mark.parametrize("first", ["progress", "tracker"])
def test_an_error_in_an_engine_fails_the_run(tracker: Tracker, first: str) -> None:
    def fail(engine: Engine, batch: int) -> None:
        raise ZeroDivisionError("oh")

    engine = Engine(fail)
    handlers: list[Any] = [EngineProgress("Training"), EpochTracker(tracker, "train")]
    for handler in handlers if first == "progress" else handlers[::-1]:
        handler.attach(engine)
    tracker.start({})
    with pytest.raises(ZeroDivisionError, match="oh"):
        engine.run([0])
    assert find(tracker).info.status == "FAILED"


def test_a_run_left_open_fails_when_the_process_ends(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[Any] = []
    monkeypatch.setattr(atexit, "register", waiting.append)
    tracker.start({})
    assert find(tracker).info.status == "RUNNING"
    waiting[-1]()
    assert find(tracker).info.status == "FAILED"


def test_an_engines_metrics_are_recorded_by_epoch(tracker: Tracker) -> None:
    engine = Engine(lambda engine, batch: None)

    @engine.on(Events.EPOCH_COMPLETED)
    def measure() -> None:
        engine.state.metrics["loss"] = 1.0 / engine.state.epoch

    EpochTracker(tracker, "train").attach(engine)
    tracker.start({})
    engine.run([0], max_epochs=2)
    tracker.finish()
    client = MlflowClient(tracking_uri=tracker.uri)
    history = client.get_metric_history(find(tracker).info.run_id, "train/loss")
    assert [(one.step, one.value) for one in history] == [(1, 1.0), (2, 0.5)]


AWAY = "http://127.0.0.1:1"
"""Nobody listens at this port."""


def test_without_mlflow_nothing_is_tracked_and_that_is_told(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['mlflow'] = None\n"
        "from pipelines.tracking.tracker import Tracker\n"
        "from transforms.errors import InputError\n"
        "tracker = Tracker('out', 'none')\n"
        "tracker.start({'a': 1}); tracker.log_metrics({'b': 1}); tracker.finish()\n"
        "try: Tracker('out', 'sqlite:///x.db').start({})\n"
        "except InputError as error: print(error)\n"
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert "needs a Python package that is not installed" in done.stdout
    assert "mlflow" in done.stdout


def test_a_run_whose_server_never_came_is_sent_later(
    database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(str(tmp_path), AWAY, "late")
    tracker.patience = 0.0
    tracker.start({"seed": 1, "tracking_uri": AWAY}, {"phase": "training"})
    assert tracker.active
    for step in range(5):
        tracker.log_metrics({"loss": 5.0 - step}, step=step)
    (tmp_path / "curves.png").write_bytes(b"curves")
    tracker.log_artifact(tmp_path / "curves.png", "pictures")
    tracker.log_data("brats", "0123456789abcdef", "testing", {"test_cases": 3})
    tracker.finish()
    finished = int(time.time() * 1000)
    assert not tracker.active and "9 record(s) not sent" in tracker.where
    assert "python -m pipelines.tracking.outbox --send" in tracker.where
    assert [one.message.count("not available") for one in caplog.records].count(1) == 1

    folder = tmp_path / "untracked"
    assert [one.name for one in folder.iterdir()] == [f"{tracker.run_name}.jsonl"]
    main(["--send", str(folder), "--tracking_uri", database])
    assert not folder.exists()
    tracker.uri = database
    run = find(tracker)
    client = MlflowClient(tracking_uri=database)
    history = client.get_metric_history(run.info.run_id, "loss")
    assert run.info.status == "FINISHED" and run.data.params["seed"] == "1"
    assert [(one.step, one.value) for one in history] == [(s, 5.0 - s) for s in range(5)]
    assert run.info.start_time <= history[0].timestamp <= run.info.end_time <= finished
    assert [one.path for one in client.list_artifacts(run.info.run_id, "pictures")]
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["brats"]


def test_a_killed_run_is_sent_as_killed_and_twice_does_no_harm(
    database: str, tmp_path: Path
) -> None:
    tracker = Tracker(str(tmp_path), AWAY, "killed")
    tracker.start({"seed": 1})
    tracker.log_metrics({"loss": 1.0})
    assert tracker.outbox is not None
    tracker.outbox.keep()
    atexit.unregister(tracker.fail)
    (file,) = (tmp_path / "untracked").iterdir()
    text = file.read_text()
    for _ in range(2):
        main(["--send", str(file), "--tracking_uri", database])
        assert not file.exists()
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    tracker.uri = database
    assert find(tracker).info.status == "KILLED"
    history = MlflowClient(tracking_uri=database).get_metric_history(
        find(tracker).info.run_id, "loss"
    )
    assert len(history) == 1


def test_what_still_cannot_be_sent_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(str(tmp_path), AWAY, "late")
    tracker.patience = 0.0
    tracker.start({})
    tracker.finish()
    folder = tmp_path / "untracked"
    with pytest.raises(SystemExit, match="0 record.s. sent, 2 not"):
        main(["--send", str(folder), "--tracking_uri", AWAY])
    assert len(list(folder.iterdir())) == 1
    with pytest.raises(SystemExit, match="Error: --tracking_uri: name the server"):
        main(["--send", str(folder)])
    with pytest.raises(SystemExit, match="Error: --send: .* holds no unsent records"):
        main(["--send", str(tmp_path / "absent"), "--tracking_uri", AWAY])
    with pytest.raises(SystemExit, match="Error: tracking_uri: expected a database"):
        main(["--send", str(folder), "--tracking_uri", "mlruns"])


def test_requests_are_short_only_while_they_are_ours(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    seen = []
    find_experiment = MlflowClient.get_experiment_by_name

    def look(client: MlflowClient, name: str) -> Any:
        seen.append(
            [os.environ.get(f"MLFLOW_HTTP_REQUEST_{n}") for n in ("TIMEOUT", "MAX_RETRIES")]
        )
        return find_experiment(client, name)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", look)
    tracker.start({})
    tracker.finish()
    assert seen == [["77", "0"]] and "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_a_lost_artifact_is_told_and_the_run_finishes(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker.start({})
    tracker.log_artifact(tmp_path / "absent.png")
    tracker.log_metrics({"loss": 1.0})
    tracker.finish()
    assert "absent.png is not there any more" in caplog.text
    assert find(tracker).info.status == "FINISHED" and "1 record(s) not sent" in tracker.where
