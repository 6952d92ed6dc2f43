"""One root for everything that is written: a local folder, or a prefix of an object store.

Paths are relative to the root, with forward slashes. An object is either absent or whole: local files are written to a
hidden temporary name, synced and renamed; object stores get a single put. What is on storage is the truth about what is
done, so nothing here keeps a list of its own.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import fsspec

TEMPORARY_SUFFIX = ".tmp"
ZARR_TEMPORARY_SUFFIX = ".partial"  # what the Zarr library calls its own
# A writer that takes longer than this over one object is taken for dead and its leftovers may be removed.
STALE_TEMPORARY_S = 24 * 3600


_Paths = list[str]  # inside the class the name `list` is the method's


class StorageError(OSError):
    """The root cannot be used; the message is one line and says what to do."""


class StorageFullError(StorageError):
    """The disk or the quota under the root is exhausted."""


@dataclass(frozen=True)
class Written:
    """What a finished file is: bytes and SHA-256 of its content."""

    size: int
    sha256: str


class Storage:
    """Reads and writes objects under one root URI.

    Args:
        root: a folder, ``file://``, ``s3://``, ``gs://``, or ``memory://`` (tests).

    Instances hold nothing but the root, so they are cheap to make and to send to another process.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        text = os.fspath(root)
        if not text:
            raise ValueError(
                "the storage root is empty; set `root` to a folder, s3://bucket/prefix or gs://bucket/prefix"
            )
        if "://" not in text or text.startswith("file://"):
            text = str(Path(text.removeprefix("file://")).expanduser().absolute())
        self.root = text.rstrip("/") or "/"
        self._fs: fsspec.AbstractFileSystem | None = None
        self._base: str = ""

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Storage) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    def __getstate__(self) -> dict[str, str]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.root = state["root"]
        self._fs, self._base = None, ""

    @property
    def is_local(self) -> bool:
        return "://" not in self.root

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The file system of the root; listings are never served from a cache."""
        if self._fs is None:
            options = {} if self.is_local else {"use_listings_cache": False}
            try:
                self._fs, self._base = fsspec.core.url_to_fs(self.root, **options)
            except ImportError as error:
                raise StorageError(
                    f"root {self.root}: {_one_line(error)}; `pip install '.[s3]'` or '.[gcs]'"
                ) from error
            except ValueError as error:
                raise ValueError(f"root {self.root}: {error}; use a folder, s3:// or gs://") from error
        return self._fs

    # -- names ---------------------------------------------------------------------------------------------------

    def uri(self, path: str = "") -> str:
        """The full address of a path, as other tools (GDAL aside) take it."""
        path = _clean(path)
        return f"{self.root}/{path}" if path else self.root

    def sub(self, path: str) -> Storage:
        """The storage whose root is a folder of this one."""
        return Storage(self.uri(path))

    def gdal_path(self, path: str) -> str:
        """The name under which GDAL opens an object; ``memory://`` has none."""
        uri = self.uri(path)
        for scheme, prefix in (("s3://", "/vsis3/"), ("gs://", "/vsigs/")):
            if uri.startswith(scheme):
                return prefix + uri.removeprefix(scheme)
        if not self.is_local:
            raise ValueError(f"GDAL cannot open {uri}")
        return uri

    def _key(self, path: str) -> str:
        fs, path = self.fs, _clean(path)
        del fs
        return f"{self._base.rstrip('/')}/{path}" if path else self._base

    # -- reading -------------------------------------------------------------------------------------------------

    def read_bytes(self, path: str) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: if there is none.
        """
        return cast(bytes, self.fs.cat_file(self._key(path)))

    def read_json(self, path: str) -> Any:
        """A JSON object.

        Raises:
            ValueError: naming the file, when it is not JSON.
        """
        try:
            return json.loads(self.read_bytes(path))
        except ValueError as error:  # that of no text at all too
            raise ValueError(f"{self.uri(path)} is not JSON ({error}); delete it and run again") from error

    def open(self, path: str) -> BinaryIO:
        """A seekable reader."""
        return cast(BinaryIO, self.fs.open(self._key(path), "rb"))

    def exists(self, path: str) -> bool:
        return bool(self.fs.exists(self._key(path)))

    def size(self, path: str) -> int:
        """Bytes of an object."""
        return int(self.fs.size(self._key(path)))

    def fingerprint(self, path: str) -> str | None:
        """A cheap token that changes whenever the object is replaced; None when it is absent."""
        try:
            if self.is_local:
                stat = os.stat(self._key(path))
                return f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"
            return str(self.fs.ukey(self._key(path)))
        except FileNotFoundError:
            return None

    def sha256(self, path: str) -> str:
        """SHA-256 of an object, read in pieces."""
        digest = hashlib.sha256()
        with self.open(path) as file:
            while block := file.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()

    def list(self, prefix: str = "", suffix: str = "") -> _Paths:
        """Sorted paths of all objects below a folder, at any depth, temporary files left out."""
        return [*self.sizes(prefix, suffix)]

    def sizes(self, prefix: str = "", suffix: str = "") -> dict[str, int]:
        """Bytes by sorted path of all that :meth:`list` gives, from the listing alone."""
        base = self._key("").rstrip("/") + "/"
        try:
            found = self.fs.find(self._key(prefix), detail=True)
        except FileNotFoundError:
            return {}
        sizes = {key.removeprefix(base): int(entry["size"]) for key, entry in found.items()}
        return {path: sizes[path] for path in sorted(sizes) if path.endswith(suffix) and not _is_temporary(path)}

    def glob(self, pattern: str) -> _Paths:
        """Sorted paths that match a shell pattern in which ``*`` does not cross a ``/``."""
        parts = pattern.split("/")
        fixed = []
        for part in parts[:-1]:
            if any(mark in part for mark in "*?["):
                break
            fixed.append(part)
        return [
            path
            for path in self.list("/".join(fixed))
            if path.count("/") == len(parts) - 1
            and all(fnmatch.fnmatchcase(*pair) for pair in zip(path.split("/"), parts, strict=True))
        ]

    # -- writing -------------------------------------------------------------------------------------------------

    def write_bytes_atomic(self, path: str, data: bytes) -> None:
        """Replace an object as a whole; readers see the old or the new bytes, never a mixture."""
        with self.clear_errors(path):
            if self.is_local:
                with self._temporary(path, data) as name:
                    os.replace(name, self._key(path))
                    _sync_folder(self._key(path))
            else:
                self.fs.pipe_file(self._key(path), data)

    def create_exclusive(self, path: str, data: bytes) -> bool:
        """Write an object only if there is none yet.

        Returns:
            True when this call made it, False when it already existed. Of any number of simultaneous callers exactly
            one gets True.
        """
        with self.clear_errors(path):
            if self.is_local:
                with self._temporary(path, data) as name:
                    try:
                        os.link(name, self._key(path))
                    except FileExistsError:
                        return False
                    _sync_folder(self._key(path))
                return True
            try:
                self.fs.pipe_file(self._key(path), data, mode="create")
            except FileExistsError:
                return False
            except OSError:
                # Not every store names the failed precondition; the object itself tells.
                if self.exists(path):
                    return False
                raise
            return True

    @contextmanager
    def writer(self, path: str) -> Iterator[_HashingFile]:
        """A binary file that becomes the object at ``path`` when the block ends without an error.

        Use it for what should not be held in memory. The file can only be appended to; its ``written`` is set after the
        block.
        """
        target = self._key(path)
        with self.clear_errors(path), self._unfinished(target) as raw:
            file = _HashingFile(raw)
            yield file
            raw.flush()
            file.written = Written(file.tell(), file.digest.hexdigest())
            if self.is_local:
                os.fsync(raw.fileno())
                os.replace(raw.name, target)
                _sync_folder(target)
            else:
                raw.seek(0)  # where /dev/fd shares the position
                self.fs.put_file(f"/dev/fd/{raw.fileno()}", target)

    def write_json(self, path: str, value: Any) -> None:
        """Write JSON with sorted keys, so that equal values are equal bytes."""
        self.write_bytes_atomic(path, json_bytes(value))

    def delete(self, path: str) -> None:
        """Remove one object; removing what is not there is no error."""
        with self.clear_errors(path), suppress(FileNotFoundError):
            self.fs.rm_file(self._key(path))

    def clean_temporaries(self, prefix: str = "", older_than_s: float = STALE_TEMPORARY_S) -> int:
        """Remove what killed writers left behind; returns how many files that were. Object stores leave nothing."""
        removed = 0
        folder = Path(self._key(prefix)) if self.is_local else None
        for file in folder.rglob("*") if folder is not None and folder.is_dir() else ():
            with suppress(FileNotFoundError):
                if _is_temporary(file.name) and time.time() - file.stat().st_mtime >= older_than_s:
                    file.unlink()
                    removed += 1
        return removed

    def check_writable(self) -> None:
        """Write, read and remove a small object.

        Raises:
            StorageError: one line that names the root and the remedy.
        """
        path = f".check-{uuid.uuid4().hex}"
        data = path.encode() * 128
        try:
            self.write_bytes_atomic(path, data)
            back = self.read_bytes(path)
            self.delete(path)
        except StorageError:
            raise
        except Exception as error:  # whatever the store's client throws: credentials, network, missing bucket
            problem = f"root {self.root} cannot be used: {_one_line(error)}; check name and credentials"
            raise StorageError(problem) from error
        if back != data:
            raise StorageError(f"root {self.root} does not give back what was written; use another root")

    # -- inside --------------------------------------------------------------------------------------------------

    @contextmanager
    def _unfinished(self, target: str) -> Iterator[BinaryIO]:
        """A file beside a local target, gone afterwards unless it was renamed.

        For an object store it has no name, so that not even a killed process leaves it behind.
        """
        if not self.is_local:
            with tempfile.TemporaryFile() as raw:
                yield raw
            return
        name = _temporary_name(target)
        os.makedirs(os.path.dirname(name), exist_ok=True)
        try:
            with open(name, "wb") as raw:
                yield raw
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)

    @contextmanager
    def _temporary(self, path: str, data: bytes) -> Iterator[str]:
        """A synced temporary file beside a local target, gone afterwards unless it was renamed."""
        name = _temporary_name(self._key(path))
        os.makedirs(os.path.dirname(name), exist_ok=True)
        try:
            with open(name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield name
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)

    @contextmanager
    def clear_errors(self, path: str) -> Iterator[None]:
        """Turn what a user can mend into one line that says how."""
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFullError(
                    f"no space left under root {self.root} while writing {path}; free space or choose another root, "
                    "then run again: what is committed is kept"
                ) from error
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
                raise StorageError(
                    f"root {self.root} is not writable ({_one_line(error)}); "
                    "give write permission or choose another root"
                ) from error
            raise


class _HashingFile:
    """An append-only binary file that knows its length and SHA-256."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._size = 0
        self.digest = hashlib.sha256()
        self.closed = False
        self.written: Written | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._raw.write(view)
        self.digest.update(view)
        self._size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        self._raw.flush()

    def close(self) -> None:
        """Left to the owner of the file."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def json_bytes(value: Any) -> bytes:
    """JSON text of a value, the same bytes for equal values."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _clean(path: str) -> str:
    parts = [part for part in str(path).split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"path {path!r} leaves the storage root")
    return "/".join(parts)


def _temporary_name(target: str) -> str:
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")


def _is_temporary(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return (name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)) or name.endswith(ZARR_TEMPORARY_SUFFIX)


def _sync_folder(target: str) -> None:
    """Make a rename survive a power cut."""
    handle = os.open(os.path.dirname(target), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
