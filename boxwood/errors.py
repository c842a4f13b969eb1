"""The exception for errors that a user can correct."""

__all__ = ["UserError"]


class UserError(ValueError):
    """Input that a person can correct: the message says what, where, what was expected, and what to do.

    The command line prints it as one line, without a traceback, and leaves with status 2. Errors of
    Boxwood itself are other exceptions, and keep their traceback.

    >>> raise UserError("photos/a.jpg: not an image; remove it or name another file")
    Traceback (most recent call last):
    boxwood.errors.UserError: photos/a.jpg: not an image; remove it or name another file
    """
