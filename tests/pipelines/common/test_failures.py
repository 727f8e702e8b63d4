"""Actions upon an engine's failure."""

import pytest
from ignite.engine import Engine

from pipelines.common.failures import on_failure


def broken(engine: Engine, batch: int) -> None:
    raise ZeroDivisionError("oh")


def test_every_action_runs_and_the_error_goes_on() -> None:
    engine, done = Engine(broken), []
    on_failure(engine, lambda: done.append("first"))
    on_failure(engine, lambda: done.append("second"))
    with pytest.raises(ZeroDivisionError, match="oh"):
        engine.run([0])
    assert done[:2] == ["first", "second"]  # Ignite tells of an error once more further out


def test_nothing_runs_when_all_is_well() -> None:
    engine, done = Engine(lambda engine, batch: None), []
    on_failure(engine, lambda: done.append("first"))
    engine.run([0])
    assert done == []
