"""The one exception that is the user's to mend."""

__all__ = ["UserError"]


class UserError(ValueError):
    """Input that a person can correct: the message says what, where, what was expected, and what to do.

    The command line prints it as one line, without a traceback, and leaves with status 2. Anything that
    is our own fault is another exception, and keeps its traceback.

    >>> raise UserError("photos/a.jpg: not an image; remove it or name another file")
    Traceback (most recent call last):
    boxwood.errors.UserError: photos/a.jpg: not an image; remove it or name another file
    """
