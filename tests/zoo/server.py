"""A small web server that simulates failures of servers."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Site:
    """The served files by path, and the failures to simulate."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etag = '"one"'
        self.ranges = True
        self.drop_after: list[int] = []
        """For each of the next downloads: after how many bytes the connection is cut."""
        self.trickle: dict[str, float] = {}
        """For ``head`` or ``body``: seconds before each byte of the answers for files; ``sum`` for MD5 sums."""
        self.redirects: dict[str, str] = {}
        self.requests: list[tuple[str, str | None]] = []
        """Path and Range of every request."""
        self.address = ""

    def put(self, path: str, content: bytes, md5: str | None = None) -> None:
        self.files[path] = content
        self.files[f"{path}.md5sum"] = f"{md5 or hashlib.md5(content, usedforsecurity=False).hexdigest()}\n".encode()

    def downloads(self) -> list[tuple[str, str | None]]:
        """The requests for files other than MD5 sums."""
        return [request for request in self.requests if not request[0].endswith(".md5sum")]


@contextmanager
def serve() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append((self.path, self.headers.get("Range")))
            if self.path in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[self.path])
                self.end_headers()
                return
            if self.slowly("head", b"HTTP/1.0 200 OK\r\nX-Long: " + b"x" * 2000):
                return
            content = site.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start, wanted = 0, self.headers.get("Range")
            if wanted and site.ranges and self.headers.get("If-Range") == site.etag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.end_headers()
                    return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", site.etag)
            self.end_headers()
            payload = content[start:]
            if site.drop_after and not self.path.endswith(".md5sum"):
                payload = payload[: site.drop_after.pop(0)]
            if self.slowly("sum" if self.path.endswith(".md5sum") else "body", payload):
                return
            with contextlib.suppress(ConnectionError):  # the client was killed
                self.wfile.write(payload)
                self.wfile.flush()
            self.close_connection = True

        def slowly(self, part: str, content: bytes) -> bool:
            """Whether this part of the answer was sent byte by byte, as far as the client took it."""
            if part not in site.trickle:
                return False
            self.close_connection = True
            with contextlib.suppress(OSError):
                for place in range(len(content)):
                    self.wfile.write(content[place : place + 1])
                    self.wfile.flush()
                    time.sleep(site.trickle[part])
            return True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # closing waits for the last answer
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
