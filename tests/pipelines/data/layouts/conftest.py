"""What the tests of the layouts share."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def touch() -> Callable[..., None]:
    """Creates empty files below a folder, and the folders that they lie in."""

    def create(root: Path, *names: str) -> None:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()

    return create
