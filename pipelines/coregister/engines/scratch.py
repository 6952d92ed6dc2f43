"""Blocks of files on a local disk, for all processes of a node: what one has fetched, none fetches again.

A year of Sentinel-2 in one block of 1024 px is half a gigabyte, and a window that is read now needs blocks of which its
neighbours, minutes later or in the process beside it, need the rest: more than memory holds, and little for a disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

SWEEP_SHARE = 1 / 32  # of the limit: what a process writes between two looks at the whole


class BlockKey(NamedTuple):
    """Which block of which version of which file; the address is without its signature."""

    address: str
    version: str
    number: int


def node_folder() -> Path:
    """Of this user on this node, below ``TMPDIR``."""
    return Path(tempfile.gettempdir()) / f"aef-blocks-{os.getuid()}"


@lru_cache
def node_scratch(limit_bytes: int) -> Scratch | None:
    """What all processes of this user on this node share; None for no bytes, or where the folder cannot be had."""
    if not limit_bytes:
        return None
    try:
        return Scratch(node_folder(), limit_bytes)
    except OSError as error:
        logger.warning("no blocks are kept on disk: %s", error)
        return None


def empty_node_folder() -> None:
    """Remove what is kept on this node; processes that still read fetch again what they lack."""
    folder = node_folder()
    if _is_ours(folder):
        for path in folder.iterdir():
            path.unlink(missing_ok=True)


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder of this user; another could put wrong pixels there, or let it lead elsewhere."""
    return not folder.is_symlink() and folder.is_dir() and folder.stat().st_uid == os.getuid()


class Scratch:
    """A folder of blocks; safe for threads and processes. What was used longest ago goes first.

    It exceeds its limit by what every process writes between two looks at the whole, :data:`SWEEP_SHARE` of it. A disk
    that fails costs fetching again, never the job.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Makes the folder.

        Raises:
            OSError: it cannot be made, or it is not this user's own.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(folder):
            raise PermissionError(f"{folder} belongs to another user")
        self.folder, self.limit_bytes = folder, limit_bytes
        self._numbers = itertools.count()
        self._unswept_bytes = limit_bytes  # looks at once what others have left
        self._failed = False

    def take(self, key: BlockKey) -> bytes | None:
        """A block; None if it is not here."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return content

    def put(self, key: BlockKey, content: bytes) -> None:
        """Keep a block, unless it is larger than all or the disk has failed before."""
        path = self._path(key)
        if self._failed or len(content) > self.limit_bytes or path.exists():
            return
        part = self.folder / f"{os.getpid()}-{next(self._numbers)}.part"
        try:
            part.write_bytes(content)
            part.replace(path)
            self._unswept_bytes += len(content)
            if self._unswept_bytes > self.limit_bytes * SWEEP_SHARE:
                self._unswept_bytes = 0
                self._sweep()
        except OSError as error:  # also where the folder's bound cannot be kept
            self._failed = True
            logger.warning("%s: %s; blocks that neighbouring reads share are fetched again", self.folder, error)
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def forget(self, address: str) -> None:
        """Remove everything of one address."""
        for path in self.folder.glob(f"{_digest(address)}-*"):
            path.unlink(missing_ok=True)

    def _path(self, key: BlockKey) -> Path:
        return self.folder / f"{_digest(key.address)}-{_digest(key.version)}-{key.number}"

    def _sweep(self) -> None:
        """Down to the limit, or to half of what the disk has left, unless another process is at it."""
        with (self.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            found = sorted(self._files())
            held = sum(size for _, size, _ in found)
            limit = min(self.limit_bytes, (held + shutil.disk_usage(self.folder).free) // 2)
            for _, size, path in found:
                if held <= limit * (1 - SWEEP_SHARE):
                    break
                path.unlink(missing_ok=True)
                held -= size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Time of last use, size, path."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                try:
                    state = entry.stat()
                except FileNotFoundError:
                    continue
                if entry.name != "lock":
                    yield state.st_mtime_ns, state.st_size, Path(entry.path)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
