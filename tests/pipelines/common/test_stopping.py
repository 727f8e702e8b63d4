"""SIGTERM and SIGINT end a run in order."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipelines.common.stopping import StopSignals


@pytest.fixture
def stops() -> Iterator[StopSignals]:
    found = StopSignals()
    yield found
    found.ignore()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_one_line(
    stops: StopSignals, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before, told = signal.getsignal(number), []
    stops.listen(lambda: told.append("first"))
    stops.advice = "Do go on."
    with pytest.raises(SystemExit) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number and told == ["first"]
    assert capsys.readouterr().err.strip() == f"Stopped by {number.name}. Do go on."
    assert signal.getsignal(number) is before


def test_a_block_may_put_it_off_until_its_end(stops: StopSignals) -> None:
    stops.listen(lambda: None)
    done = []
    with pytest.raises(SystemExit), stops.deferring():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.received is signal.SIGTERM
        done.append(1)
    assert done == [1]


def test_a_second_signal_does_not_wait(stops: StopSignals) -> None:
    stops.listen(lambda: None)
    with pytest.raises(SystemExit), stops.deferring():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")


def test_nothing_is_lost_without_a_signal(stops: StopSignals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stops.listen(lambda: None)
    with stops.deferring():
        pass
    stops.ignore()
    assert signal.getsignal(signal.SIGTERM) is before


def test_engines_are_silent_about_it() -> None:
    program = """
import logging, os, signal, sys
logging.basicConfig(stream=sys.stderr)
from ignite.engine import Engine
from pipelines.common.stopping import StopSignals
stops = StopSignals()
stops.listen(lambda: None)
Engine(lambda engine, batch: os.kill(os.getpid(), signal.SIGTERM)).run([0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 143
    assert done.stderr.strip().startswith("Stopped by SIGTERM.") and "\n" not in done.stderr.strip()
