"""The block engine: byte ranges of a GeoTIFF's blocks, inflated here, and only as far as a crop needs.

GDAL opens a file, reads whole blocks into a cache of decoded blocks and copies the window out of it: of a window of
2048 px in blocks of 1024 px it decodes more than twice what is asked for, and of a small window nearly half of the time
is the opening. Here the header is read once, ranges of neighbouring blocks are one request, a block is inflated up to
the last row that is needed (ISA-L stops on demand), the predictor is undone for the needed part alone and straight
into the crop, and blocks on the seam of two windows are fetched once (:mod:`pipelines.coregister.engines.blocks`).

What it does not know goes to the rasterio engine, file by file: other compressions and formats, addresses that need
GDAL's own credentials, and files that are not what the catalog says.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from isal import isal_zlib
from numba import njit
from numpy.typing import NDArray

from pipelines.coregister.engines.base import HEADER_BYTES, SMALL_FILE_BYTES, Crop, FileGrid, in_threads
from pipelines.coregister.engines.blocks import BlockCache
from pipelines.coregister.engines.ranges import ByteSource, HttpBytes, open_bytes
from pipelines.coregister.engines.rasterio import read_crop
from pipelines.coregister.engines.scratch import BlockKey
from pipelines.coregister.engines.tiff import (
    DEFLATE,
    FLOATING,
    HORIZONTAL,
    TiffImage,
    TooShort,
    Unsupported,
    directory_at,
    parse,
)

# Ranges this close are one request: a COG writes a few bytes between blocks, and a request costs 40 ms or 500 kB.
GAP_BYTES = 2**16
REQUEST_BYTES = 16 * 2**20
# Headers are kept this long: a file that is replaced on the server is noticed by its version, here and at every range.
HEADER_AGE_S = 600.0
HEADERS_BYTES = 64 * 2**20
LARGEST_HEADER = 16 * 2**20
DIRECTORY_BYTES = 512  # of an overview behind the pixels
MOST_DIRECTORIES = 64
MOST_LEFT = 2**14

BLOCKS = BlockCache()


@dataclass(frozen=True)
class _File:
    """A file whose header was read.

    Attributes:
        name: its address without a signature, by which it is known.
        source: of its bytes.
        image: its header.
        head: its first bytes, whole for a small file.
        born: when, on the monotonic clock.
    """

    name: str
    source: ByteSource
    image: TiffImage
    head: bytes = field(repr=False)
    born: float

    @property
    def held_bytes(self) -> int:
        return len(self.head) + self.image.offsets.nbytes + self.image.counts.nbytes


class _Headers:
    """Files that were opened, the oldest forgotten first, and those that are left to GDAL."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._held_bytes = 0
        self._left_since: OrderedDict[str, float] = OrderedDict()

    def get(self, crop: Crop) -> _File | None:
        with self._lock:
            file = self._files.get(_name(crop))
        if file is None or time.monotonic() - file.born > HEADER_AGE_S:
            return None
        if isinstance(file.source, HttpBytes):  # says with every range which version of the file it is
            file.source.url, file.source.renew = crop.href, crop.renew
            return file
        return file if open_bytes(crop.href).identity == file.source.identity else None

    def put(self, file: _File) -> None:
        self.forget(file.name)
        with self._lock:
            self._files[file.name] = file
            self._held_bytes += file.held_bytes
            while self._held_bytes > HEADERS_BYTES:
                self._held_bytes -= self._files.popitem(last=False)[1].held_bytes

    def is_left(self, name: str) -> bool:
        """Whether a file was found to be nothing for this engine, not long ago."""
        with self._lock:
            since = self._left_since.get(name)
        return since is not None and time.monotonic() - since <= HEADER_AGE_S

    def leave(self, name: str) -> None:
        with self._lock:
            self._left_since[name] = time.monotonic()
            while len(self._left_since) > MOST_LEFT:
                self._left_since.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._files.clear()
            self._left_since.clear()
            self._held_bytes = 0

    def forget(self, name: str) -> None:
        with self._lock:
            self._left_since.pop(name, None)
            if name in self._files:
                self._held_bytes -= self._files.pop(name).held_bytes


_HEADERS = _Headers()


def forget_files() -> None:
    """Drop all that is kept of any file."""
    BLOCKS.clear()
    _HEADERS.clear()


class CogEngine:
    """Reads the blocks of GeoTIFFs."""

    def read(self, crops: Sequence[Crop], threads: int) -> list[NDArray | Exception]:
        """See :class:`pipelines.coregister.engines.base.Engine`."""
        return in_threads(_read, crops, threads)


class CorruptBlock(OSError):
    """A block whose bytes arrived are not what its header promises."""


def _name(crop: Crop) -> str:
    return crop.name or crop.href


def _read(crop: Crop) -> NDArray | Exception:
    if crop.settings or ("://" in crop.href and not crop.href.startswith(("http://", "https://"))):
        return read_crop(crop)
    if crop.again:
        _HEADERS.forget(_name(crop))
        BLOCKS.forget(_name(crop))
    if _HEADERS.is_left(_name(crop)):
        return read_crop(crop)
    try:
        file = _HEADERS.get(crop) or _open_or_leave(crop)
        if not _as_described(file.image, crop):
            raise Unsupported("not what the catalog says")
        return _pixels(file, crop)
    except (Unsupported, NotImplementedError):
        return read_crop(crop)
    except Exception as error:  # handed to the caller, who classifies it
        _HEADERS.forget(_name(crop))
        return error


def _open_or_leave(crop: Crop) -> _File:
    try:
        return _open(crop)
    except (Unsupported, NotImplementedError):
        _HEADERS.leave(_name(crop))
        raise


def _open(crop: Crop) -> _File:
    source = open_bytes(crop.href, crop.renew)
    size = crop.grid.height * crop.grid.width * np.dtype(crop.dtype).itemsize
    wanted = max(HEADER_BYTES, size if size <= SMALL_FILE_BYTES else 0)
    head = source.read(0, wanted)
    while True:
        try:
            image = parse(head)
        except TooShort as short:
            if short.needed > LARGEST_HEADER or len(head) < wanted:
                raise OSError(f"header ends after {len(head)} bytes, {short.needed} are needed") from short
            wanted = max(2 * wanted, short.needed)
            head += source.read(len(head), wanted)
            continue
        if _is_masked(image, head, source):
            raise Unsupported("a mask")
        file = _File(_name(crop), source, image, head, time.monotonic())
        _HEADERS.put(file)
        return file


def _is_masked(image: TiffImage, head: bytes, source: ByteSource) -> bool:
    """Whether a directory after the first is a mask: overviews may lie between, before the pixels or behind them."""
    following = image.following
    for _ in range(MOST_DIRECTORIES):
        if not following:
            return False
        start, content = (following, head) if following < len(head) else (0, b"")
        while True:
            try:
                masked, following = directory_at(content, image.big, start)
                break
            except TooShort as short:
                first = following - start  # of the content, in the file
                more = source.read(first + len(content), first + max(short.needed, start + DIRECTORY_BYTES))
                if not more:
                    raise OSError(f"file ends within the directory at {following}") from short
                content += more
        if masked:
            return True
    raise Unsupported("directories without end")


def _as_described(image: TiffImage, crop: Crop) -> bool:
    left, top, step_x, step_y = image.transform
    seen = FileGrid(crop.grid.epsg, left, top, step_x, step_y, image.height, image.width)
    alike = image.dtype == np.dtype(crop.dtype) and seen.agrees(crop.grid) and image.epsg in (None, crop.grid.epsg)
    return alike and crop.agrees_on_nodata(image.nodata)


@dataclass(frozen=True)
class _Piece:
    """The part of a block that a crop needs, in the block's pixels."""

    block: tuple[int, int]
    rows: slice
    cols: slice
    out: tuple[slice, slice]

    @property
    def px(self) -> int:
        return (self.rows.stop - self.rows.start) * (self.cols.stop - self.cols.start)


def _pieces(image: TiffImage, crop: Crop) -> Iterator[_Piece]:
    high, wide = image.block_height, image.block_width
    for r in range(crop.row // high, (crop.row + crop.height - 1) // high + 1):
        top, bottom = max(crop.row, r * high), min(crop.row + crop.height, (r + 1) * high)
        for c in range(crop.col // wide, (crop.col + crop.width - 1) // wide + 1):
            left, right = max(crop.col, c * wide), min(crop.col + crop.width, (c + 1) * wide)
            yield _Piece(
                (r, c),
                slice(top - r * high, bottom - r * high),
                slice(left - c * wide, right - c * wide),
                (slice(top - crop.row, bottom - crop.row), slice(left - crop.col, right - crop.col)),
            )


def _pixels(file: _File, crop: Crop) -> NDArray:
    """The crop's pixels.

    Raises:
        OSError: a range cannot be read, or a block cannot be inflated, also when it is fetched once more.
    """
    image = file.image
    out = np.empty((crop.height, crop.width), image.dtype)
    missing: list[_Piece] = []
    for piece in _pieces(image, crop):
        if not image.counts[piece.block]:
            out[piece.out] = np.array(image.fill).astype(image.dtype)
            continue
        start, end = _span(image, piece)
        if end <= len(file.head):
            _decode(image, piece, file.head[start:end], out)
            continue
        content = BLOCKS.take(_key(file, piece), piece.px)
        if content is not None:
            with suppress(CorruptBlock):  # damaged on the disk: it is fetched as if it had not been kept
                _decode(image, piece, content, out)
                continue
        missing.append(piece)
    for part in _requests(image, missing):
        first, last = _span(image, part[0])[0], max(_span(image, piece)[1] for piece in part)
        content = file.source.read(first, last)
        for piece in part:
            start, end = _span(image, piece)
            block = content[start - first : end - first]
            try:
                _decode(image, piece, block, out)
            except CorruptBlock:
                block = file.source.read(start, end)
                _decode(image, piece, block, out)
            left_px = _inside_px(image, piece.block) - piece.px
            BLOCKS.put(_key(file, piece), block, left_px, file.source.worth_copying)
    if (own := crop.hides(image.nodata)) is not None:
        out[out == own] = crop.nodata
    return out


def _key(file: _File, piece: _Piece) -> BlockKey:
    number = piece.block[0] * file.image.counts.shape[1] + piece.block[1]
    return BlockKey(file.name, file.source.identity, number)


def _span(image: TiffImage, piece: _Piece) -> tuple[int, int]:
    start = int(image.offsets[piece.block])
    return start, start + int(image.counts[piece.block])


def _inside_px(image: TiffImage, block: tuple[int, int]) -> int:
    """Pixels of a block that lie within the image."""
    return _inside_rows(image, block[0]) * min(image.block_width, image.width - block[1] * image.block_width)


def _inside_rows(image: TiffImage, block_row: int) -> int:
    """Rows of a block that lie within the image; a tile stores more at the edge."""
    return min(image.block_height, image.height - block_row * image.block_height)


def _requests(image: TiffImage, pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces whose blocks lie behind one another, as one request each."""
    run: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: _span(image, piece)):
        start, end = _span(image, piece)
        far = run and start - _span(image, run[-1])[1] > GAP_BYTES
        if run and (far or end - _span(image, run[0])[0] > REQUEST_BYTES):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def _decode(image: TiffImage, piece: _Piece, content: bytes, out: NDArray) -> None:
    """Puts the needed part of a block where it belongs."""
    width, size = image.block_width, image.dtype.itemsize
    rows = piece.rows.stop
    needed = rows * width * size
    if image.compression == DEFLATE:
        to_its_end = rows == _inside_rows(image, piece.block[0])
        content = _inflate(piece, content, needed, image.block_height * width * size if to_its_end else None)
    if len(content) < needed:
        raise CorruptBlock(f"block {piece.block} holds {len(content)} bytes where {needed} are needed")
    first = piece.rows.start, piece.cols.start
    place = tuple(part.start for part in piece.out)
    shape = tuple(part.stop - part.start for part in piece.out)
    if image.predictor == HORIZONTAL:
        unsigned = np.dtype(f"<u{size}")
        block = np.frombuffer(content, unsigned, rows * width).reshape(rows, width)
        _sum_rows(block, first, out.view(unsigned), place, shape)
    elif image.predictor == FLOATING:
        planes = np.frombuffer(content, np.uint8, needed).reshape(rows, width * size)
        wide = np.empty((*shape, size), np.uint8)
        _sum_planes(planes, first, width, wide)
        out[piece.out] = wide.view(image.dtype)[..., 0]
    else:
        block = np.frombuffer(content, image.dtype, rows * width).reshape(rows, width)
        out[piece.out] = block[piece.rows, piece.cols]


def _inflate(piece: _Piece, content: bytes, needed: int, largest: int | None) -> bytes:
    """The first bytes of a deflated block, or, where ``largest`` says how many there may be, all of them.

    All are held against the checksum that lies behind the last one.
    """
    inflater = isal_zlib.decompressobj()
    try:
        # The checksum is compared only if more bytes are asked for than there are.
        inflated = inflater.decompress(content, needed if largest is None else largest + 1)
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub calls the class an instance
        raise CorruptBlock(f"block {piece.block} cannot be inflated: {error}") from error
    if largest is not None and not inflater.eof:
        raise CorruptBlock(f"block {piece.block} cannot be inflated: it does not end where it should")
    return inflated


# The whole crop is passed, not its part: numba compiles a kernel anew for arrays that are not contiguous.
@njit(nogil=True, cache=True)
def _sum_rows(
    block: NDArray, first: tuple[int, int], out: NDArray, place: tuple[int, int], shape: tuple[int, int]
) -> None:
    """Horizontal differencing undone (TIFF 6.0, section 14): running sums along each row, modulo the type."""
    for i in range(shape[0]):
        row = block[first[0] + i]
        total = 0
        for j in range(first[1]):
            total += row[j]
        for j in range(shape[1]):
            total += row[first[1] + j]
            out[place[0] + i, place[1] + j] = total


@njit(nogil=True, cache=True)
def _sum_planes(planes: NDArray, first: tuple[int, int], width: int, out: NDArray) -> None:
    """Floating-point predictor undone (Adobe Photoshop TIFF technical note 3): bytes by significance, most first."""
    size = out.shape[2]
    for i in range(out.shape[0]):
        total = np.uint8(0)
        for k in range(size):
            for j in range(width):
                total = np.uint8(total + planes[first[0] + i, k * width + j])
                if first[1] <= j < first[1] + out.shape[1]:
                    out[i, j - first[1], size - 1 - k] = total
