"""What is installed here."""

from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str) -> str | None:
    """The version of an installed package; None for one that is not installed.

    Args:
        package: as pip calls it.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None
