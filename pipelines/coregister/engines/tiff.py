"""What a GeoTIFF says of its first image: size, blocks, compression, place. Knows no files, only bytes.

Little-endian TIFF and BigTIFF with one band of 8 to 64 bits and no mask, stored plain or deflated, which is what public
archives hold. For anything else :class:`Unsupported` is raised and GDAL may read it. TIFF 6.0; OGC GeoTIFF 1.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import calcsize, unpack, unpack_from
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.coregister.engines.base import held_nodata

PLAIN, DEFLATE = 1, 8
_COMPRESSIONS = {1: PLAIN, 8: DEFLATE, 32946: DEFLATE}
NO_PREDICTOR, HORIZONTAL, FLOATING = 1, 2, 3
_KINDS = {1: "u", 2: "i", 3: "f"}
_TYPES = {1: "B", 2: "c", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _FILL_ORDER = 254, 256, 257, 258, 259, 266
_MASK = 4  # bit of the subfile type: the directory is the mask of another
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_COUNTS, _PREDICTOR = 273, 277, 278, 279, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _SAMPLE_FORMAT = 322, 323, 324, 325, 339
_SCALE, _TIE_POINT, _MATRIX, _GEO_KEYS, _NODATA = 33550, 33922, 34264, 34735, 42113
_RASTER_TYPE, _POINT = 1025, 2
_GEOGRAPHIC_CRS, _PROJECTED_CRS, _USER_DEFINED = 2048, 3072, 32767


class Unsupported(Exception):
    """A file that this reader leaves to GDAL."""


class TooShort(Exception):
    """The header goes on beyond the bytes given; carries how many are needed at least."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"{needed} bytes needed")
        self.needed = needed


@dataclass(frozen=True)
class TiffImage:
    """The first image of a file.

    Attributes:
        height, width: in pixels.
        block_height, block_width: of a tile or strip.
        dtype: of a pixel.
        compression: ``PLAIN`` or ``DEFLATE``.
        predictor: ``NO_PREDICTOR``, ``HORIZONTAL`` or ``FLOATING``.
        offsets, counts: ``(block rows, block columns)`` bytes; a count of 0 is a block that was never written.
        transform: left, top, step_x, step_y of the pixel edges.
        nodata: stored number that means "not measured", None where the file says nothing.
        epsg: code of the CRS, None where the file has none.
        big: a BigTIFF.
        following: where the next directory begins, that of an overview or a mask; 0: there is none.
    """

    height: int
    width: int
    block_height: int
    block_width: int
    dtype: np.dtype
    compression: int
    predictor: int
    offsets: NDArray[np.int64] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    transform: tuple[float, float, float, float]
    nodata: float | None
    epsg: int | None
    big: bool
    following: int

    @property
    def fill(self) -> float:
        """Value of blocks that were never written."""
        return 0.0 if self.nodata is None else self.nodata


def parse(head: bytes) -> TiffImage:
    """The first image from the first bytes of a file.

    Raises:
        Unsupported: something else than what is described above.
        TooShort: more of the file is needed.
        ValueError: no TIFF.
    """
    tags = _Tags(head)
    if tags.one(_SAMPLES, 1) != 1 or tags.one(_FILL_ORDER, 1) != 1:
        raise Unsupported("several bands, or bits in reverse")
    kind = _KINDS.get(tags.one(_SAMPLE_FORMAT, 1))
    bits, compression = tags.one(_BITS, 1), _COMPRESSIONS.get(tags.one(_COMPRESSION, 1))
    predictor = tags.one(_PREDICTOR, NO_PREDICTOR)
    if kind is None or bits not in (8, 16, 32, 64) or (kind == "f" and bits < 32) or compression is None:
        raise Unsupported(f"{bits} bits of sample format {tags.one(_SAMPLE_FORMAT, 1)}, or another compression")
    known = {NO_PREDICTOR, HORIZONTAL if bits < 64 else NO_PREDICTOR, FLOATING if kind == "f" else NO_PREDICTOR}
    if predictor not in known:
        raise Unsupported(f"predictor {predictor}")
    height, width = tags.one(_HEIGHT), tags.one(_WIDTH)
    tiled = _TILE_WIDTH in tags
    block_width = tags.one(_TILE_WIDTH) if tiled else width
    block_height = tags.one(_TILE_HEIGHT) if tiled else min(tags.one(_ROWS_PER_STRIP, height), height)
    shape = -(-height // block_height), -(-width // block_width)
    offsets = np.array(tags.all(_TILE_OFFSETS if tiled else _STRIP_OFFSETS), np.int64)
    counts = np.array(tags.all(_TILE_COUNTS if tiled else _STRIP_COUNTS), np.int64)
    if offsets.size != shape[0] * shape[1] or counts.size != offsets.size:
        raise Unsupported(f"{offsets.size} blocks for {shape}")
    dtype = np.dtype(f"<{kind}{bits // 8}")
    return TiffImage(
        height=height,
        width=width,
        block_height=block_height,
        block_width=block_width,
        dtype=dtype,
        compression=compression,
        predictor=predictor if compression == DEFLATE else NO_PREDICTOR,
        offsets=offsets.reshape(shape),
        counts=counts.reshape(shape),
        transform=_transform(tags),
        nodata=_nodata(tags, dtype),
        epsg=_epsg(tags),
        big=tags.slot == 8,
        following=tags.following,
    )


def directory_at(content: bytes, big: bool, start: int = 0) -> tuple[bool, int]:
    """Whether a later directory is that of a mask, and where in the file the next one begins (0: nowhere).

    Args:
        content: bytes of the file.
        big: it is a BigTIFF.
        start: of the directory in them.

    Raises:
        TooShort: the directory goes on beyond the bytes given.
    """
    count_size, entry_size, word = (8, 20, "<Q") if big else (2, 12, "<I")
    first = start + count_size
    if first > len(content):
        raise TooShort(first)
    count = unpack_from("<Q" if big else "<H", content, start)[0]
    end = first + count * entry_size
    if end + calcsize(word) > len(content):
        raise TooShort(end + calcsize(word))
    # Entries are sorted by tag, and no tag is below the subfile type's.
    masked = count > 0 and unpack_from("<H", content, first)[0] == _SUBFILE
    masked = masked and bool(unpack_from("<I", content, first + entry_size - calcsize(word))[0] & _MASK)
    return masked, unpack_from(word, content, end)[0]


def _transform(tags: _Tags) -> tuple[float, float, float, float]:
    if _MATRIX in tags:
        a, b, _, left, d, e, _, top, *_ = tags.all(_MATRIX)
        if b or d:
            raise Unsupported("rotated")
    elif _SCALE in tags and len(tie := tags.all(_TIE_POINT)) == 6:
        a, e = tags.all(_SCALE)[0], -tags.all(_SCALE)[1]
        left, top = tie[3] - tie[0] * a, tie[4] - tie[1] * e
    else:
        raise Unsupported("no affine georeference")
    if _geo_keys(tags).get(_RASTER_TYPE) == _POINT:
        left, top = left - a / 2, top - e / 2
    return float(left), float(top), float(a), float(e)


def _geo_keys(tags: _Tags) -> dict[int, int]:
    """Keys whose value is a short number."""
    keys = np.array(tags.all(_GEO_KEYS) if _GEO_KEYS in tags else (), np.int64)
    entries = keys[4 : keys.size // 4 * 4].reshape(-1, 4).tolist()
    return {key: value for key, elsewhere, _, value in entries if not elsewhere}


def _epsg(tags: _Tags) -> int | None:
    keys = _geo_keys(tags)
    code = keys.get(_PROJECTED_CRS, keys.get(_GEOGRAPHIC_CRS))
    return None if code in (None, 0, _USER_DEFINED) else code


def _nodata(tags: _Tags, dtype: np.dtype) -> float | None:
    """What the file's text says, where its pixels can hold it."""
    if _NODATA not in tags:
        return None
    text = b"".join(tags.all(_NODATA)).split(b"\0")[0].decode("ascii", "replace").strip()
    try:
        return held_nodata(float(text), dtype)
    except ValueError:
        return None


class _Tags:
    """The entries of the first directory, read on demand."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        if len(head) < 16:
            raise ValueError("not a TIFF: shorter than its header")
        if head[:2] == b"MM":
            raise Unsupported("big-endian")
        version = unpack_from("<H", head, 2)[0]
        if head[:2] != b"II" or version not in (42, 43):
            raise ValueError(f"not a TIFF: it begins with {head[:4]!r}")
        big = version == 43
        self.slot, self.word = (8, "Q") if big else (4, "I")
        start = self._take("Q", 8)[0] if big else self._take("I", 4)[0]
        count = self._take("Q" if big else "H", start)[0]
        first, size = start + (8 if big else 2), 20 if big else 12
        self.entries: dict[int, tuple[int, int, int]] = {}
        for index in range(count):
            at = first + index * size
            tag, kind, length = self._take("HHQ" if big else "HHI", at)
            self.entries[tag] = kind, length, at + size - self.slot
        self.following = self._take(self.word, first + count * size)[0]

    def __contains__(self, tag: int) -> bool:
        return tag in self.entries

    def all(self, tag: int) -> tuple[Any, ...]:
        if tag not in self.entries:
            raise Unsupported(f"tag {tag} is missing")
        kind, length, at = self.entries[tag]
        if kind not in _TYPES:
            raise Unsupported(f"tag {tag} is of type {kind}")
        form = f"{length}{_TYPES[kind]}"
        if calcsize(f"<{form}") > self.slot:
            at = self._take(self.word, at)[0]
        return self._take(form, at)

    def one(self, tag: int, default: int | None = None) -> int:
        if default is not None and tag not in self.entries:
            return default
        values = self.all(tag)
        if any(value != values[0] for value in values):
            raise Unsupported(f"tag {tag} differs between bands")
        return int(values[0])

    def _take(self, form: str, at: int) -> tuple[Any, ...]:
        end = at + calcsize(f"<{form}")
        if end > len(self.head):
            raise TooShort(end)
        return unpack(f"<{form}", self.head[at:end])
