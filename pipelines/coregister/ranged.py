"""A file over HTTP as a seekable object, read in blocks by range requests, all in the calling thread.

For h5py, which must not wait for another thread while it holds its global lock: fsspec reads in a thread of its own,
and a garbage collection there that frees an HDF5 handle waits for that lock for ever.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from types import TracebackType

import httpx

from pipelines.patience import RefusedRequest, Renew, patiently_signed

BLOCK_BYTES = 2**18
TIMEOUT_S = 60
Authorization = Callable[[str], str | None]


class RangedFile(io.RawIOBase):
    """Read-only; blocks that were read are kept until it is closed."""

    def __init__(self, url: str, authorization: Authorization | None = None, renew: Renew | None = None) -> None:
        """Opens an address.

        Args:
            url: the address.
            authorization: the ``Authorization`` header for a URL, None for none. Asked anew at every redirect, so that
                no host sees what is meant for another.
            renew: gives another signature where one has run out.

        Raises:
            OSError: the server refuses it, or does not serve ranges.
        """
        self._url, self._renew = url, renew

        def authorise(request: httpx.Request) -> None:
            header = authorization(str(request.url)) if authorization is not None else None
            if header is None:
                request.headers.pop("Authorization", None)
            else:
                request.headers["Authorization"] = header

        self._client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=True, event_hooks={"request": [authorise]})
        self._blocks: dict[int, bytes] = {}
        self._position = 0
        self._size = 0
        try:
            self._size = self._load(0)
        except BaseException:
            self._client.close()
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        end = min(self._position + len(buffer), self._size)
        done = 0
        while self._position < end:
            index, start = divmod(self._position, BLOCK_BYTES)
            if index not in self._blocks:
                self._load(index)
            part = self._blocks[index][start : start + end - self._position]
            buffer[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return done

    def close(self) -> None:
        if not self.closed:
            self._client.close()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, index: int) -> int:
        """Reads a block; returns the size of the file."""
        first = index * BLOCK_BYTES
        (content, size), self._url = patiently_signed(lambda url: self._ask(url, first), self._url, self._renew)
        self._blocks[index] = content
        return size

    def _ask(self, url: str, first: int) -> tuple[bytes, int]:
        """The block that begins at a byte, and the size of the file."""
        try:
            answer = self._client.get(url, headers={"Range": f"bytes={first}-{first + BLOCK_BYTES - 1}"})
        except httpx.HTTPError as error:
            raise ConnectionError(f"connection failed: {error}") from error
        if answer.status_code == 200:
            raise OSError("the server answered 200 to a range request")
        if answer.status_code == 401 and "Authorization" not in answer.request.headers:
            raise OSError(f"the server answered 401 at {answer.url.host}: it wants a login, and none is known here")
        if answer.status_code != 206:
            raise RefusedRequest(answer.status_code, answer.headers, answer.text[:200])
        size = int(answer.headers["Content-Range"].rsplit("/", 1)[1])
        if len(answer.content) != min(BLOCK_BYTES, size - first):
            raise ConnectionError(f"connection broke off after {len(answer.content)} bytes")
        return answer.content, size
