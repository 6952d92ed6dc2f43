"""A folder over HTTP with byte ranges, whose answers can be spoiled."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit
from weakref import WeakSet

# (path with query, number of earlier requests of that path) -> a status to answer with, alone or with its Retry-After,
# "truncate", an address to redirect to, or None for sound
Spoil = Callable[[str, int], int | str | tuple[int, str] | None]

_HOMES = count()

# What S3 says beside a status.
_WORDS = {
    403: ("AccessDenied", "Access Denied"),
    404: ("NoSuchKey", "The specified key does not exist."),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}


def _said(status: int) -> bytes:
    if status not in _WORDS:
        return b""
    code, message = _WORDS[status]
    return f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()


class Server:
    def __init__(self, folder: Path, spoil: Spoil, demand: str | None) -> None:
        self.requests: list[str] = []
        self.sent = 0
        self.authorizations: list[str | None] = []
        counts: dict[str, int] = {}
        lock = threading.Lock()
        outer = self
        # Its own for every server of this process: GDAL remembers what it read at an address whose port is given again.
        home = f"/{next(_HOMES)}"

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                self.path = self.path.removeprefix(home)
                with lock:
                    outer.requests.append(f"{self.command} {self.path}")
                    outer.authorizations.append(self.headers.get("Authorization"))
                    seen = counts.get(self.path, 0)
                    counts[self.path] = seen + 1
                fault = spoil(self.path, seen)
                if demand is not None and self.headers.get("Authorization") != demand:
                    fault = 401
                if isinstance(fault, str) and fault.startswith("http"):
                    self.send_response(303)
                    self.send_header("Location", fault)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                path = folder / urlsplit(self.path).path.lstrip("/")
                retry_after = None
                if isinstance(fault, tuple):
                    fault, retry_after = fault
                if isinstance(fault, int) or not path.is_file():
                    self.send_response(fault if isinstance(fault, int) else 404)
                    if retry_after is not None:
                        self.send_header("Retry-After", retry_after)
                    said = _said(fault if isinstance(fault, int) else 404)
                    self.send_header("Content-Type", "application/xml")
                    self.send_header("Content-Length", str(len(said)))
                    self.end_headers()
                    if body:
                        self.wfile.write(said)
                    return
                content = path.read_bytes()
                total = len(content)
                ranged = self.headers.get("Range")
                if ranged:
                    first, last = ranged.removeprefix("bytes=").split("-")
                    start, end = int(first), min(int(last or total - 1), total - 1)
                    content = content[start : end + 1]
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
                else:
                    self.send_response(200)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    outer.sent += len(content)
                    self.wfile.write(content[: len(content) // 2] if fault == "truncate" else content)
                if fault == "truncate":
                    self.close_connection = True

            def log_message(self, *args: object) -> None:
                pass

        class Folder(ThreadingHTTPServer):
            daemon_threads = False  # closing waits for them

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients hang up when they have seen enough."""

            def get_request(self) -> tuple[socket.socket, object]:
                connection, address = super().get_request()
                connections.add(connection)
                return connection, address

            def server_close(self) -> None:
                """Hang up on clients that keep their connections."""
                for connection in connections:
                    with suppress(OSError):  # it has hung up itself
                        connection.shutdown(socket.SHUT_RDWR)
                super().server_close()

        connections: WeakSet[socket.socket] = WeakSet()
        self.http = Folder(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}{home}"


@contextmanager
def serve(folder: Path, spoil: Spoil = lambda path, seen: None, demand: str | None = None) -> Iterator[Server]:
    """Serve a folder; ``demand``: the ``Authorization`` header without which the answer is 401."""
    server = Server(folder, spoil, demand)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
