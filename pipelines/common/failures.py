"""What is to be done when an engine's run fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from ignite.engine import Engine, Events


def on_failure(engine: Engine, action: Callable[[], None]) -> None:
    """Runs an action when the engine raises; the error then goes on to the caller.

    Ignite swallows an error that any handler listens to, and asks no further handler once one
    raises. So a single handler raises it again, and stays behind all actions. Ignite may tell of
    one error twice: the action must bear being repeated.
    """
    if engine.has_event_handler(_raise, Events.EXCEPTION_RAISED):
        engine.remove_event_handler(_raise, Events.EXCEPTION_RAISED)
    engine.add_event_handler(Events.EXCEPTION_RAISED, lambda _engine, _error: action())
    engine.add_event_handler(Events.EXCEPTION_RAISED, _raise)


def _raise(engine: Engine, error: BaseException) -> NoReturn:
    raise error
