"""A cache of published files: each is downloaded once, resumed after a broken connection, and verified before it gets its name.

Files are below ``BOXWOOD_CACHE`` (or the user's cache folder) as on the server; torchvision's are where torch looks for them.
``BOXWOOD_ZOO_MIRROR`` is the address of a copy: it replaces ``https://dl.fbaipublicfiles.com/detectron``, and has torchvision's
files in ``torchvision/``, DensePose's in ``densepose/``.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from boxwood.errors import UserError
from boxwood.files import make_folder
from boxwood.zoo.table import DENSEPOSE, PREFIX, Entry, find, md5_prefix

__all__ = ["cache_folder", "download_model", "fetch", "local_file", "local_path"]

logger = logging.getLogger(__name__)

TORCHVISION = "https://download.pytorch.org/models/"
WITH_SUM = "DensePoseKeyPointsMask_ResNet50_FPN_s1x-e2e.pkl"
"""The one file of DensePose with a published MD5 sum beside it."""
TRIES = 4
PAUSE = 1.0
"""Seconds before the second try; doubled before each further one."""
TIMEOUT = 30.0
"""Seconds to wait for a connection or for data."""
MAX_BYTES = 5_000_000_000
CHUNK = 1 << 20
SLOW_SECONDS, LEAST_SPEED = 60.0, 1_000
"""A download that brings fewer than ``LEAST_SPEED`` bytes a second over ``SLOW_SECONDS`` is given up; the next call goes on from
there. An answer whose head, or MD5 sum, takes longer than ``SLOW_SECONDS`` counts as a broken connection."""


def download_model(name: str, *, proposals: bool = False) -> list[Path]:
    """The paths of a published model's weights, which are downloaded and verified if they are not in the cache; with ``proposals``
    those of an RPN's published proposals instead.

    Raises `UserError` where there is no such model, it was not published, or it cannot be downloaded, verified or written.
    """
    entry = find(name)
    if not proposals:
        return [local_file(entry)]
    if not entry.proposals:
        raise UserError(f"{name}: has no published proposals; boxwood zoo list --task proposals shows those that have")
    return [fetch(url) for url in entry.proposals.values()]


def local_file(entry: Entry) -> Path:
    """The path of an entry's weights, which are downloaded if they are not in the cache.

    Raises `UserError` where they were not published, cannot be downloaded or written, or differ from their published checksum.
    """
    if entry.url is None:
        raise UserError(f"{entry.name}: its weights are not published ({entry.remark}); train it with boxwood train {entry.recipe}")
    return fetch(entry.url)


def fetch(url: str) -> Path:
    """The path of the file published at ``url``, downloaded if it is not in the cache. Raises `UserError` as `local_file` does."""
    path = local_path(url)
    verify: Callable[[Path], str] = _by_name if url.startswith(TORCHVISION) else partial(_by_md5, url=_mirrored(url))
    if url.startswith(DENSEPOSE) and not url.endswith(WITH_SUM):
        verify = partial(_by_start_of_md5, url=url)
    if path.is_file() and not url.startswith(TORCHVISION) and _is_cut(path):
        logger.warning("%s: its length has changed since it was verified; it is downloaded again", path)
        path.unlink()
    if path.is_file():
        if url.startswith(TORCHVISION) and (wrong := _by_name(path)):  # torch or the user may have put it there
            raise UserError(f"{path}: {wrong}; delete it, and it is downloaded again")
        return path
    _make_folder_of_cache(path.parent)
    part = path.with_name(f".{path.name}.part")
    with _alone(part):
        if not path.is_file():  # another process may have been faster
            _complete(_mirrored(url), part)
            try:
                wrong = verify(part)
            except OSError as error:
                raise _unwritten(part, error) from None
            if wrong:
                _forget(part)
                raise UserError(f"{url}: {wrong}, so it was deleted; try again, or put the file at {path} yourself")
            _name(part, path)
    return path


def local_path(url: str) -> Path:
    """The path of the file published at ``url`` in the cache, whether it exists or not."""
    if url.startswith(TORCHVISION):
        return _torch_folder() / url.removeprefix(TORCHVISION)
    if url.startswith(DENSEPOSE):
        return cache_folder() / "densepose" / url.removeprefix(DENSEPOSE)
    return cache_folder() / "detectron" / url.removeprefix(PREFIX)


def cache_folder() -> Path:
    """``BOXWOOD_CACHE``, else ``boxwood`` in the user's cache folder."""
    if folder := os.environ.get("BOXWOOD_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "boxwood"


def _make_folder_of_cache(folder: Path) -> None:
    """Make a folder of the cache. Raises `UserError`, which names BOXWOOD_CACHE, where this fails."""
    try:
        make_folder(folder)
    except UserError:
        raise UserError(f"{folder}: the cache cannot be written to; name another folder with BOXWOOD_CACHE") from None


# ------------------------------------------------------------------------------------------------------------ internals


def _torch_folder() -> Path:
    """``torch.hub.get_dir()`` without torch."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def _mirrored(url: str) -> str:
    mirror = os.environ.get("BOXWOOD_ZOO_MIRROR", "").rstrip("/")
    if mirror:
        others = url.replace(TORCHVISION, f"{mirror}/torchvision/").replace(DENSEPOSE, f"{mirror}/densepose/")
        url = others.replace(PREFIX, f"{mirror}/")
    if not url.startswith(("http://", "https://")):
        raise UserError(f"BOXWOOD_ZOO_MIRROR={mirror}: must begin with http:// or https://")
    return url


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(("http://", "https://")):
            raise UserError(f"{req.full_url}: redirects to {newurl[:80]}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Connection(http.client.HTTPConnection):
    """Ends where the head of an answer takes too long; the timeout of a socket begins again with every byte."""

    def getresponse(self) -> http.client.HTTPResponse:
        late, sock = threading.Event(), self.sock

        def end() -> None:
            late.set()
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(SLOW_SECONDS, end)
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()
        finally:
            timer.cancel()
        if late.is_set():  # the head is cut, but may look whole
            response.close()
            raise TimeoutError(f"the server takes more than {SLOW_SECONDS:.0f} s to answer")
        return response


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    pass


class _Web(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Connection, req)


class _SecureWeb(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_SecureConnection, req)


def _open(url: str, headers: dict[str, str]) -> Any:
    opener = urllib.request.build_opener(_Redirects, _Web, _SecureWeb)
    return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)


def _complete(url: str, part: Path) -> None:
    """Download the whole file to ``part``, from where an earlier try ended."""
    reason, pause = "", PAUSE
    for attempt in range(TRIES):
        if attempt:
            logger.info("%s: %s; tried again", url, reason)
            time.sleep(pause)
            pause *= 2
        try:
            _append(url, part)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                raise UserError(f"{url}: the server answers {error.code} {error.reason}; check whether it has moved") from None
            reason = f"the server answers {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, EOFError) as error:
            reason = " ".join(str(getattr(error, "reason", error) or type(error).__name__).split())
        except OSError as error:
            raise _unwritten(part, error) from None
        else:
            return
    raise UserError(
        f"{url}: cannot be downloaded ({reason}); the received part is kept: try again, or name a mirror (BOXWOOD_ZOO_MIRROR)"
    )


def _append(url: str, part: Path) -> None:
    """Download the rest of the file over one connection. Raises EOFError where this ends too early."""
    tag_file = part.with_suffix(".tag")
    have = part.stat().st_size if part.exists() and tag_file.exists() else 0
    headers = {"Range": f"bytes={have}-", "If-Range": tag_file.read_text(encoding="utf-8")} if have else {}
    try:
        response = _open(url, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        whole = error.headers.get("Content-Range") == f"bytes */{have}"
        error.close()
        if whole:  # complete, but not verified yet
            return
        _forget(part)  # longer than the published file
        have, response = 0, _open(url, {})
    with response:
        going_on = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        have = have if going_on else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None and length.isdigit() else None
        if (total or 0) > MAX_BYTES:
            raise UserError(f"{url}: has {total} bytes, more than any published file; check the address")
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if tag and not tag.startswith("W/"):
            tag_file.write_text(tag, encoding="utf-8")
        else:
            tag_file.unlink(missing_ok=True)
        with part.open("ab" if going_on else "wb") as file, _progress(url, total, have) as advance:
            have = _copy(response, file, have, advance, url)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have != total:
        raise EOFError(f"the connection ended after {have} of {total} bytes")


def _copy(response: Any, file: IO[bytes], have: int, advance: Callable[[int], None], url: str) -> int:
    started, received = time.monotonic(), 0
    while chunk := _read(response):
        have, received = have + len(chunk), received + len(chunk)
        if have > MAX_BYTES:
            raise UserError(f"{url}: has more bytes than any published file; check the address")
        file.write(chunk)
        advance(len(chunk))
        if (seconds := time.monotonic() - started) >= SLOW_SECONDS:
            if received < LEAST_SPEED * seconds:
                raise UserError(
                    f"{url}: is given up, since the server sent {received} bytes in {seconds:.0f} s; the {have} received bytes are "
                    "kept: try again later, or name a mirror (BOXWOOD_ZOO_MIRROR)"
                )
            started, received = time.monotonic(), 0
    return have


def _read(response: Any) -> bytes:
    """Errors of the network and of the disk are both OSErrors; this turns the former into ConnectionError, which is retried."""
    try:
        chunk: bytes = response.read1(CHUNK)  # what is there; `read` would wait for all of it
    except OSError as error:
        raise ConnectionError(str(error)) from None
    return chunk


@contextmanager
def _progress(url: str, total: int | None, have: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, else a line in the log; yields the function that takes the number of new bytes."""
    name = url.rpartition("/")[2]
    if not sys.stderr.isatty():
        size = "" if total is None else f", {total / 1e6:.0f} MB" + (f", {have / 1e6:.0f} of them here" if have else "")
        logger.info("%s is downloaded%s", url, size)
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=have)
        yield lambda count: bar.advance(task, count)


def _by_md5(part: Path, url: str) -> str:
    """How a file differs from the MD5 sum beside it on the server; empty if it does not."""
    reason = ""
    for attempt in range(TRIES):
        time.sleep(PAUSE * attempt)
        try:
            with _open(f"{url}.md5sum", {}) as response:
                text = _start_of(response).decode("latin1")
            break
        except urllib.error.HTTPError as error:
            error.close()
            raise UserError(
                f"{url}.md5sum: the server answers {error.code}, so the file cannot be verified; {_mirror_hint()}"
            ) from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = " ".join(str(getattr(error, "reason", error) or type(error).__name__).split())
    else:
        raise UserError(f"{url}.md5sum: cannot be downloaded ({reason}), so the file is not verified yet; it is kept: try again")
    match = re.match(r"\s*([0-9a-fA-F]{32})\b", text)
    if not match:
        raise UserError(f"{url}.md5sum: holds no MD5 sum, so the file cannot be verified; {_mirror_hint()}")
    sum_ = _digest(part, "md5")
    return "" if sum_ == match[1].lower() else f"has the MD5 sum {sum_} instead of {match[1].lower()}"


def _by_start_of_md5(part: Path, url: str) -> str:
    """How a file differs from the start of its MD5 sum, which its name has; empty if it does not, or the name has none."""
    wanted = md5_prefix(url)
    if not wanted:
        logger.warning("%s: its makers published no check sum, so it is not verified", url)
        return ""
    sum_ = _digest(part, "md5")
    return "" if sum_.startswith(wanted) else f"has the MD5 sum {sum_}, which should begin with {wanted}"


def _start_of(response: Any) -> bytes:
    """At most 1000 bytes. Raises TimeoutError where they take longer than ``SLOW_SECONDS``."""
    content, end = b"", time.monotonic() + SLOW_SECONDS
    while len(content) < 1000 and (chunk := _read(response)):
        content += chunk
        if time.monotonic() > end:
            raise TimeoutError(f"{len(content)} bytes in {SLOW_SECONDS:.0f} s")
    return content[:1000]


def _mirror_hint() -> str:
    return "check whether the mirror is complete" if os.environ.get("BOXWOOD_ZOO_MIRROR") else "check whether it has moved"


def _by_name(path: Path) -> str:
    """How a file of torchvision differs from the first 8 digits of its SHA-256 sum in its name; empty if it does not."""
    name = path.name.removeprefix(".").removesuffix(".part")
    match = re.search(r"-([0-9a-f]{8})\.pth$", name)
    sum_ = _digest(path, "sha256")
    return "" if match is None or sum_.startswith(match[1]) else f"has a SHA-256 sum that begins with {sum_[:8]}, not {match[1]}"


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _is_cut(path: Path) -> bool:
    """Whether a file has another length than when it was verified; False for a file that the user put there."""
    noted = path.with_name(f".{path.name}.size")
    return noted.is_file() and noted.read_text(encoding="utf-8") != str(path.stat().st_size)


def _name(part: Path, path: Path) -> None:
    try:
        if path.suffix != ".pth":  # the name of a .pth file has its checksum
            path.with_name(f".{path.name}.size").write_text(str(part.stat().st_size), encoding="utf-8")
        part.with_suffix(".tag").unlink(missing_ok=True)  # first, so that a kill between the two leaves nothing over
        os.replace(part, path)
    except OSError as error:
        raise _unwritten(path, error) from None


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_suffix(".tag").unlink(missing_ok=True)


def _unwritten(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror or error}); make room or name another folder with BOXWOOD_CACHE")


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold a lock, so that one process or thread at a time downloads a file and the others wait."""
    try:
        import fcntl
    except ImportError:  # Windows has no lock; the checksum reveals a file that two processes wrote
        yield
        return
    try:
        lock = part.with_suffix(".lock").open("w")
    except OSError as error:
        raise _unwritten(part, error) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
