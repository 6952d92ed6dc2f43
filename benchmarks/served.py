"""A folder over HTTP in a process of its own, with a delay, that counts requests and bytes.

    python -m benchmarks.served FOLDER --delay 0.04

``/name.tif?any=thing`` is a file of the folder; ``/_count`` gives the counts since the last time it was asked.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen


class Counts:
    """What was served; safe for threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests = self.bytes = 0

    def add(self, size: int) -> None:
        with self.lock:
            self.requests += 1
            self.bytes += size

    def take(self) -> dict[str, int]:
        with self.lock:
            found = {"requests": self.requests, "bytes": self.bytes}
            self.requests = self.bytes = 0
            return found


def handler(folder: Path, delay_s: float, counts: Counts) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = urlsplit(self.path).path
            if path == "/_count":
                said = json.dumps(counts.take()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)
                return
            time.sleep(delay_s)
            file = folder / re.sub(r"^copy\d+-", "", Path(path).name)  # many addresses, one file
            if not file.is_file():
                counts.add(0)
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = file.stat().st_size
            first, last = 0, size - 1
            wanted = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", ""))
            if wanted:
                first, last = int(wanted[1]), min(int(wanted[2] or last), last)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{size}"')
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            counts.add(last - first + 1 if body else 0)
            if body:
                with open(file, "rb") as opened:
                    offset = first
                    while offset <= last:
                        offset += os.sendfile(self.wfile.fileno(), opened.fileno(), offset, last + 1 - offset)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up when they have seen enough."""


@contextmanager
def serving(folder: Path, delay_s: float) -> Iterator[str]:
    """The address of a server that lives as long as the block."""
    command = [sys.executable, "-m", "benchmarks.served", str(folder), "--delay", str(delay_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def count(url: str) -> dict[str, int]:
    """What was served since the last call."""
    with urlopen(f"{url}/_count") as answer:
        found: dict[str, int] = json.loads(answer.read())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--delay", type=float, default=0.04)
    options = parser.parse_args()
    server = Quiet(("127.0.0.1", 0), handler(options.folder, options.delay, Counts()))
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
