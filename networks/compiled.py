"""Functions that PyTorch compiles, where it can."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from .errors import summary

logger = logging.getLogger(__name__)


class Compiled:
    """A function that is compiled at its first call, and runs as it is where that fails.

    Args:
        function: of tensors, and of tuples, lists and dicts of them.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.plain = function
        self.run: Callable[..., Any] = torch.compile(function)

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function."""
        try:
            return self.run(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:  # imported by `torch.compile`
            logger.warning("Not compiled, which changes the time alone: %s", summary(error))
            self.run = self.plain
            return self.plain(*arguments)
