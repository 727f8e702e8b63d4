from importlib.metadata import version

from pipelines.common.versions import installed_version


def test_a_version_is_what_is_installed_or_nothing() -> None:
    assert installed_version("torch") == version("torch")
    assert installed_version("no-such-package-of-ours") is None
