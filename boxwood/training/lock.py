"""One training at a time in a run's directory."""

from __future__ import annotations

import errno
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from boxwood.errors import UserError
from boxwood.files import make_folder

__all__ = ["only_training_in"]

logger = logging.getLogger(__name__)

NAME = ".lock"


@contextmanager
def only_training_in(out: Path) -> Iterator[None]:
    """Hold the lock of a run's directory, which is made if it does not exist, and removed on leaving if it is empty.

    The kernel releases the lock when the process ends, however it ends. Raises `UserError`, which names the other process, where
    one trains there already. On a file system without locks a warning is logged.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a directory with --out")
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    make_folder(out)
    try:
        file = _lock(out / NAME)
        try:
            yield
        finally:
            (out / NAME).unlink(missing_ok=True)
            file.close()
    finally:
        for folder in new:
            try:
                folder.rmdir()
            except OSError:  # it is in use
                break


def _lock(path: Path) -> IO[str]:
    """The open and locked file. Closing it releases the lock."""
    while True:
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); name another directory with --out") from None
        try:
            is_locked = _try_lock(file)
            file.seek(0)
            holder = file.read().strip() or "another process"
            if not is_locked:
                raise UserError(
                    f"{path.parent}: {holder} trains here; wait until it has ended, or name another directory with --out"
                )
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}")
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the process that held it has just removed it


def _try_lock(file: IO[str]) -> bool:
    """Lock a file; False where another process has locked it. True, with a warning, where there are no locks."""
    try:
        # A record lock, because forked loader workers do not inherit it: they live for seconds after a killed training.
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # Windows
        return True
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        logger.warning(
            "%s: cannot be locked (%s); a second training in this directory would go unnoticed", file.name, error.strerror
        )
    return True
