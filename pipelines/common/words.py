"""Counts and names in words; quick to import."""


def counted(count: int, thing: str) -> str:
    """The count and the thing, in the plural where it should be.

    Example:
        >>> counted(1, "normal image"), counted(2, "patient")
        ('1 normal image', '2 patients')
    """
    return f"{count} {thing}{'' if count == 1 else 's'}"


def plainly(name: str) -> str:
    """A name as words.

    Example:
        >>> plainly("seasonal_difference")
        'seasonal difference'
    """
    return name.replace("_", " ")
