"""Counts and names in words."""

import pytest

from pipelines.common.words import counted, plainly


@pytest.mark.parametrize(("count", "told"), [(0, "0 images"), (1, "1 image"), (2, "2 images")])
def test_the_plural_stands_where_it_should(count: int, told: str) -> None:
    assert counted(count, "image") == told


def test_a_name_reads_as_words() -> None:
    assert plainly("seasonal_difference") == "seasonal difference"
