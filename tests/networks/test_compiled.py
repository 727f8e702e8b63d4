import logging

import torch
from torch._dynamo.exc import BackendCompilerFailed

from networks.compiled import Compiled


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch, caplog):
    def compiler(function):
        def failing(*arguments):
            raise BackendCompilerFailed(compiler, RuntimeError("no compiler\nat all"), None)

        return failing

    monkeypatch.setattr(torch, "compile", compiler)
    double = Compiled(lambda x: 2 * x)
    with caplog.at_level(logging.WARNING):
        assert [double(2), double(3)] == [4, 6]
    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()


def test_a_compiled_function_is_used(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: lambda x: function(x) + 1)
    assert Compiled(lambda x: 2 * x)(2) == 5
