"""Blocks of files that neighbouring windows share: fetched once in a process, kept compressed, forgotten when used up.

A window that is not aligned to the blocks needs (C + B)^2 / C^2 times its bytes, and the next one needs half of those
again. What is kept is bounded; a block is dropped as soon as all of its pixels have been asked for, else the one that
was used longest ago goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

BLOCK_CACHE_BYTES = 512 * 2**20

Key = tuple[str, str, int]
"""Address, version and block number of a file."""


@dataclass
class _Entry:
    content: bytes
    left_px: int


class BlockCache:
    """Compressed blocks by file and number; safe for threads."""

    def __init__(self, limit_bytes: int = BLOCK_CACHE_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def take(self, key: Key, used_px: int) -> bytes | None:
        """A block, of which ``used_px`` pixels are wanted now; None if it is not here."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            entry.left_px -= used_px
            if entry.left_px <= 0:
                self._drop(key)
            else:
                self._entries.move_to_end(key)
            return entry.content

    def put(self, key: Key, content: bytes, left_px: int) -> None:
        """Keep a block of which ``left_px`` pixels have not been asked for."""
        if left_px <= 0 or len(content) > self.limit_bytes:
            return
        with self._lock:
            if key in self._entries:
                self._drop(key)
            self._entries[key] = _Entry(content, left_px)
            self.held_bytes += len(content)
            while self.held_bytes > self.limit_bytes:
                self._drop(next(iter(self._entries)))

    def forget(self, href: str) -> None:
        """Drop everything of one address."""
        with self._lock:
            for key in [key for key in self._entries if key[0] == href]:
                self._drop(key)

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()
            self.held_bytes = 0

    def _drop(self, key: Key) -> None:
        self.held_bytes -= len(self._entries.pop(key).content)
