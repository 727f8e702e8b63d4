"""The served model file; needs no label environment."""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

APP = Path(__file__).parents[2] / "bundles" / "monailabel"


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(APP))
    yield importlib.import_module("lib.serving")
    for name in [name for name in sys.modules if name.partition(".")[0] == "lib"]:
        del sys.modules[name]


def test_a_model_of_signals_is_refused_and_says_why(
    serving: Any,
    write_signal_model: Callable[..., dict[str, Any]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_signal_model()
    served = serving.ServedModel(tmp_path / "models")
    told = "found one of signals, which 3D Slicer and OHIF do not show"
    for _ in range(2):
        with caplog.at_level(logging.ERROR), pytest.raises(serving.Refusal, match=told) as refused:
            served.loaded()
        assert refused.value.status == 409
    assert told in caplog.text
