"""Records that wait for a server."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from requests.exceptions import ConnectionError as NoConnection

from pipelines.tracking.link import MOST_METRICS, Record, RunFacts, next_batch
from pipelines.tracking.outbox import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    UNTRACKED,
    Outbox,
    read_untracked,
    write_untracked,
)
from transforms.errors import InputError


class FakeLink:
    """A server that can be away, or refuse single records."""

    def __init__(self) -> None:
        self.uri = "http://user:secret@server:5000"
        self.run = RunFacts("train-20260101-120000-abc123", 1000)
        self.away = False
        self.faults: dict[str, Exception] = {}
        self.attempts = 0
        self.sent: list[Record] = []

    def open(self) -> str:
        self.attempts += 1
        if self.away:
            raise NoConnection("connection refused")
        return "id"

    def answers(self) -> bool:
        return not self.away

    def send(self, batch: list[Record]) -> None:
        for record in batch:
            for name in record.content.get("values", {}):
                if name in self.faults:
                    raise self.faults[name]
        self.sent += batch


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(link: Any, clock: Clock, tmp_path: Path) -> Outbox:
    return Outbox(link, tmp_path, clock, clock.wait)


def metric(step: int, name: str = "loss") -> Record:
    return Record("metrics", {"values": {name: step / 2}, "step": step, "time": 1000 + step})


def test_an_outage_is_told_once_and_all_is_sent_in_order(
    outbox: Outbox, link: FakeLink, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    outbox.add(metric(0))
    link.away = True
    for step in range(1, 50):
        clock.now += 1.0
        outbox.add(metric(step))
    (warning,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "user:***@server" in warning.message and "secret" not in caplog.text
    assert 1 < link.attempts < 10
    link.away = False
    clock.now += LONGEST_PAUSE
    outbox.add(Record("artifact", {"path": "/a", "folder": None}))
    assert [one.content.get("step") for one in link.sent] == [*range(50), None]
    assert "answers again" in caplog.text and not outbox.file.parent.exists()


def test_attempts_become_rare_but_never_stop(outbox: Outbox, link: FakeLink, clock: Clock) -> None:
    link.away = True
    at = []
    for _ in range(600):
        before = link.attempts
        outbox.add(metric(0))
        at += [clock.now] if link.attempts > before else []
        clock.now += 1.0
    pauses = [later - sooner for sooner, later in zip(at, at[1:], strict=False)]
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(pauses) == pauses[-1] == LONGEST_PAUSE


def test_each_outage_is_told(
    outbox: Outbox, link: FakeLink, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        link.away = True
        outbox.add(metric(1))
        link.away = False
        clock.now += FIRST_PAUSE
        outbox.add(metric(2))
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 2 and len(link.sent) == 4


def test_while_the_server_is_away_all_is_on_disk(outbox: Outbox, link: FakeLink) -> None:
    link.away = True
    outbox.add(metric(1))
    run, records = read_untracked(outbox.file)
    assert run.name == link.run.name and records == [metric(1)]


def test_a_record_that_is_refused_does_not_hold_up_the_others(
    outbox: Outbox, link: FakeLink, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    link.faults = {"bad": ValueError("no such name")}
    link.away = True
    for step, name in enumerate(["loss", "bad", "loss", "bad"]):
        outbox.add(metric(step, name))
    link.away = False
    clock.now += FIRST_PAUSE
    outbox.add(metric(4))
    assert [one.content["step"] for one in link.sent] == [0, 2, 4]
    assert caplog.text.count("does not take") == 1 and "no such name" in caplog.text
    assert not outbox.deliver_last(0.0)
    assert [one.content["step"] for one in read_untracked(outbox.file)[1]] == [1, 3]


def test_a_server_that_fails_over_one_record_gets_the_others_in_the_end(
    outbox: Outbox, link: FakeLink
) -> None:
    link.faults = {"bad": NoConnection("reset")}
    for step, name in enumerate(["bad", "loss"]):
        outbox.add(metric(step, name))
    assert not link.sent
    assert not outbox.deliver_last(0.0)
    assert [one.content["step"] for one in link.sent] == [1]
    assert [one.content["step"] for one in outbox.unsent] == [0]


def test_the_end_waits_for_the_server(outbox: Outbox, link: FakeLink, clock: Clock) -> None:
    link.away = True
    outbox.add(metric(1))

    def wait(seconds: float) -> None:
        clock.now += seconds
        link.away = clock.now < 10.0

    outbox.wait = wait
    assert outbox.deliver_last(30.0)
    assert link.sent == [metric(1)] and clock.now < 30.0


def test_the_end_does_not_wait_for_ever(
    outbox: Outbox, link: FakeLink, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    link.away = True
    outbox.add(metric(1))
    assert not outbox.deliver_last(30.0)
    assert clock.now <= 30.0 and outbox.command in caplog.text
    assert "secret" not in outbox.command and UNTRACKED in outbox.command


def test_only_metrics_go_together_and_not_too_many() -> None:
    end = Record("end", {"status": "FINISHED", "time": 1})
    records = [metric(1), metric(2), end, metric(3)]
    assert next_batch(records) == records[:2]
    assert next_batch(records[2:]) == [end]
    params = Record("params", {"values": {"a": "1"}})
    assert next_batch([params, params, metric(1)]) == [params]
    many = Record("metrics", {"values": {f"m{i}": 0.0 for i in range(400)}, "step": 0, "time": 0})
    assert len(next_batch([many] * 5)) == MOST_METRICS // 400


def test_what_was_not_sent_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "out" / UNTRACKED / "run.jsonl"
    run = RunFacts("train-20260101-120000-abc123", 1000, {"phase": "training"}, "id")
    values = {"loss": float("inf"), "less": -1.5}
    records = [
        Record("metrics", {"values": values, "step": 1, "time": 5}),
        Record("artifact", {"path": str(tmp_path / "out" / "a.png"), "folder": None}),
        Record("artifact", {"path": "/elsewhere/model.pt", "folder": "model"}),
    ]
    write_untracked(file, run, records)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[2]["path"] == "a.png" and lines[3]["path"] == "/elsewhere/model.pt"
    (tmp_path / "out").rename(tmp_path / "moved")
    found, read = read_untracked(tmp_path / "moved" / UNTRACKED / "run.jsonl")
    assert (found.name, found.started, found.tags, found.run_id) == (
        run.name,
        1000,
        {"phase": "training"},
        "id",
    )
    assert {n: float(v) for n, v in read[0].content["values"].items()} == values
    assert read[1].content["path"] == str(tmp_path / "moved" / "a.png")
    assert read[2] == records[2]


@pytest.mark.parametrize("text", ["", "{}", "[1]", "no json", '{"kind": "params", "values": {}}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match="--send: .*other.jsonl was not written by AE-Flow"):
        read_untracked(file)
