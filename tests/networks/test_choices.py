import pytest

from networks.choices import nearest


@pytest.mark.parametrize(
    ("name", "told"),
    [("sed", "Did you mean 'seed'?"), ("BETA", "Did you mean 'Beta'?"), ("xyz", "")],
)
def test_a_misspelt_name_is_guessed(name: str, told: str) -> None:
    assert nearest(name, ["seed", "Beta"]) == told
