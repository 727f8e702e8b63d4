"""The error for what a user can mend: a file, a folder or an option."""


class InputError(ValueError):
    """A mistake in the user's input, told in one paragraph without a traceback.

    The message names the argument or file, what was expected, what was found and what to do.
    """
