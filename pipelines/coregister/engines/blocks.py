"""Blocks of files that neighbouring windows share: fetched once in a process, kept compressed, forgotten when used up.

A window that is not aligned to the blocks needs (C + B)^2 / C^2 times its bytes, and the next one needs half of those
again. What is kept is bounded; a block is dropped as soon as all of its pixels have been asked for, else the one that
was used longest ago goes first: to the local disk where one is given (:mod:`pipelines.coregister.engines.scratch`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from pipelines.coregister.engines.scratch import BlockKey, Scratch

BLOCK_CACHE_BYTES = 512 * 2**20


@dataclass
class _Entry:
    content: bytes
    left_px: int
    to_disk: bool


class BlockCache:
    """Compressed blocks by file and number; safe for threads.

    Attributes:
        limit_bytes: that memory holds at most.
        scratch: takes what memory has no room for; None: it is forgotten.
    """

    def __init__(self, limit_bytes: int = BLOCK_CACHE_BYTES, scratch: Scratch | None = None) -> None:
        self.limit_bytes, self.scratch = limit_bytes, scratch
        self.held_bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[BlockKey, _Entry] = OrderedDict()

    def take(self, key: BlockKey, used_px: int) -> bytes | None:
        """A block, of which ``used_px`` pixels are wanted now; None if it is not here."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                entry.left_px -= used_px
                if entry.left_px <= 0:
                    self._drop(key)
                else:
                    self._entries.move_to_end(key)
                return entry.content
        return self.scratch.take(key) if self.scratch is not None else None

    def put(self, key: BlockKey, content: bytes, left_px: int, to_disk: bool = True) -> None:
        """Keep a block of which ``left_px`` pixels have not been asked for; on disk only if it may go there."""
        if left_px <= 0:
            return
        evicted = {}
        entry = _Entry(content, left_px, to_disk)
        with self._lock:
            if key in self._entries:
                self._drop(key)
            if len(content) > self.limit_bytes:
                evicted[key] = entry
            else:
                self._entries[key] = entry
                self.held_bytes += len(content)
            while self.held_bytes > self.limit_bytes:
                oldest = next(iter(self._entries))
                evicted[oldest] = self._drop(oldest)
        if self.scratch is not None:
            for its_key, entry in evicted.items():
                if entry.to_disk:
                    self.scratch.put(its_key, entry.content)

    def forget(self, address: str) -> None:
        """Drop everything of one address."""
        with self._lock:
            for key in [key for key in self._entries if key.address == address]:
                self._drop(key)
        if self.scratch is not None:
            self.scratch.forget(address)

    def clear(self) -> None:
        """Drop everything that memory holds."""
        with self._lock:
            self._entries.clear()
            self.held_bytes = 0

    def _drop(self, key: BlockKey) -> _Entry:
        entry = self._entries.pop(key)
        self.held_bytes -= len(entry.content)
        return entry
