"""Errors of other programs' parsers, which raise whatever a damaged file leads them to, as errors of the user's file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from boxwood.errors import UserError

__all__ = ["errors_of_file"]


@contextlib.contextmanager
def errors_of_file(path: str | Path, advice: str = "copy it again") -> Iterator[None]:
    """Turn every exception of a parser into a `UserError` of one line; `UserError` itself and an interruption pass.

    >>> with errors_of_file("a.pth"):
    ...     [].pop()
    Traceback (most recent call last):
    boxwood.errors.UserError: a.pth: is cut short or damaged (IndexError: pop from empty list); copy it again
    """
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path}: needs more memory than there is; {advice}, or read it on a larger machine") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); name an existing file") from None
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        printable = "".join(character if character.isprintable() else "?" for character in reason[:120])
        raise UserError(f"{path}: is cut short or damaged ({printable}); {advice}") from None
