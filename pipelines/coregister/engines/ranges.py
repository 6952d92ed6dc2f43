"""Byte ranges of local files and of HTTP addresses, with as little work a byte as Python allows.

Answers are read in one piece; connections are kept. A range that fails is asked for again by itself, and with a new
signature where the old one has run out. Errors say the status code in GDAL's words, so that one classification serves
all engines.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from pipelines.patience import RefusedRequest, Renew, patiently_signed

CONNECT_S, READ_S = 10, 60
CONNECTIONS = 32  # kept open to one host; more threads than this wait
REDIRECTS = 5
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)$")


class ByteSource(Protocol):
    """A file of which parts can be read.

    Attributes:
        identity: tells this version of the file from others; known after the first read.
        worth_copying: to the local disk: it is far away, and the identity holds for more than its size.
    """

    identity: str

    @property
    def worth_copying(self) -> bool: ...

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``[start, end)``, fewer where the file ends before.

        Raises:
            OSError: it cannot be read.
        """
        ...


def open_bytes(href: str, renew: Renew | None = None) -> ByteSource:
    """A source for a path or an ``http(s)://`` address."""
    return HttpBytes(href, renew) if href.startswith(("http://", "https://")) else LocalBytes(href)


class LocalBytes:
    """A file of this machine."""

    worth_copying = False

    def __init__(self, path: str) -> None:
        self.path = path
        state = os.stat(path)
        self.identity = f"{state.st_mtime_ns}-{state.st_size}-{state.st_ino}"

    def read(self, start: int, end: int) -> bytes:
        """See :class:`ByteSource`."""
        with open(self.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), end - start, start)


class HttpBytes:
    """An address that serves ranges.

    Attributes:
        url: signed, as it was last known; ``renew`` gives the next.
    """

    def __init__(self, url: str, renew: Renew | None = None) -> None:
        self.url, self.renew = url, renew
        self.identity = ""
        parts = urlsplit(url)
        self._pool = _pool(parts.scheme, parts.hostname or "")

    @property
    def worth_copying(self) -> bool:
        """See :class:`ByteSource`: where the server tells versions apart."""
        return not self.identity.startswith("-")

    def read(self, start: int, end: int) -> bytes:
        """See :class:`ByteSource`.

        Raises:
            ConnectionError: no answer, or one that broke off, or of another version of the file.
            RefusedRequest: an answer that is no success.
        """
        (body, identity), self.url = patiently_signed(lambda url: self._ask(url, start, end), self.url, self.renew)
        if self.identity and identity and identity != self.identity:
            raise ConnectionError("connection was answered with another version of the file")
        self.identity = self.identity or identity
        return body

    def _ask(self, url: str, start: int, end: int) -> tuple[bytes, str]:
        """One range, and the version of the file."""
        try:
            answer = self._pool.request("GET", url, headers={"Range": f"bytes={start}-{end - 1}"}, decode_content=False)
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"connection failed: {_cause(error)}") from error
        if answer.status == 416:
            return b"", ""
        body = answer.data
        if answer.status not in (200, 206):
            raise RefusedRequest(answer.status, answer.headers, body[:200].decode(errors="replace"))
        total = _TOTAL.search(answer.headers.get("Content-Range", ""))
        size = int(total[1]) if total else len(body)
        identity = f"{answer.headers.get('ETag') or answer.headers.get('Last-Modified') or ''}-{size}"
        if answer.status == 200:  # a server without ranges
            return body[start:end], identity
        if len(body) != min(end, size) - start:
            raise ConnectionError(f"connection broke off after {len(body)} bytes")
        return body, identity


@lru_cache(maxsize=64)
def _pool(scheme: str, host: str) -> urllib3.PoolManager:
    settings: dict[str, Any] = {
        "maxsize": CONNECTIONS,
        "block": True,
        "timeout": urllib3.Timeout(connect=CONNECT_S, read=READ_S),
        # Failures are counted and classified by those who ask, who try again and wait for as long as the answer says.
        "retries": urllib3.Retry(
            total=REDIRECTS, connect=0, read=0, status=0, other=0, redirect=REDIRECTS, respect_retry_after_header=False
        ),
    }
    proxy = None if proxy_bypass(host) else getproxies().get(scheme)
    return urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)


def _cause(error: BaseException) -> str:
    """The innermost words, without the address: it may hold a signature."""
    inner = getattr(error, "reason", None)
    return _cause(inner) if isinstance(inner, BaseException) else f"{type(error).__name__}: {error}".split("(url=")[0]
