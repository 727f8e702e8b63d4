"""The error of a wrong argument."""


class ArgumentError(ValueError):
    """An argument that a user may have chosen; the message names it and says what to do."""
