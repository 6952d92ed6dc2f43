"""Reading many files that may fail: classes of failure, retries, renewed signatures, corrected headers.

Nothing that fails turns into nodata: a request comes back with pixels or with a :class:`Failure`.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote

from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pipelines.coregister.engines import CorruptBlock, Crop, Engine, FileGrid, Header, HeaderMismatch, read_header
from pipelines.coregister.engines.base import held_nodata
from pipelines.coregister.reach import lies_under
from pipelines.coregister.warp import extent
from pipelines.grid import Window
from pipelines.scenes import Asset, Scene

T = TypeVar("T")
Sign = Callable[[str], str]
# One for all scenes, or one for each catalog by name.
Signers = Sign | Mapping[str, Sign] | None


class FailureKind(StrEnum):
    """Why a file could not be read, which decides how often it is tried."""

    THROTTLED = "throttled"
    EXPIRED = "expired"
    REFUSED = "refused"  # whoever signs addresses gives no access, or this machine has no means to ask
    TRANSIENT = "transient"
    MISSING = "missing"
    CORRUPT = "corrupt"
    MISDESCRIBED = "misdescribed"  # the catalog's words differ from the file's, even after taking the file's
    UNUSABLE = "unusable"  # the file is sound but not what can be read here


# The file's own: another run would find the same. All other kinds are of the moment or of the user's access.
PERMANENT = frozenset({FailureKind.MISSING, FailureKind.CORRUPT, FailureKind.MISDESCRIBED, FailureKind.UNUSABLE})
# Attempts that may end in one class, those that an engine made of one request counted. A missing file is tried again:
# object stores answer 404 for a moment under load. Classes are counted apart: a first 404 after a 503 is a first one.
ATTEMPTS = {
    FailureKind.THROTTLED: 5,
    FailureKind.EXPIRED: 3,
    FailureKind.REFUSED: 1,  # signers are patient themselves
    FailureKind.TRANSIENT: 5,
    FailureKind.MISSING: 3,
    FailureKind.CORRUPT: 3,
    FailureKind.MISDESCRIBED: 2,
    FailureKind.UNUSABLE: 1,
}
# Tried again without a pause: something was changed that should help.
_AT_ONCE = (FailureKind.EXPIRED, FailureKind.MISDESCRIBED)
# First pause before a throttled or transient failure is tried again; doubles.
BACKOFF_S = 0.25
_PATTERNS = (
    (FailureKind.REFUSED, r"NoCredentials|DefaultCredentialsError|(locate|find|load)\w* (any )?credentials"),
    (FailureKind.TRANSIENT, r"not completed|not enough data"),  # an answer that broke off, whatever status it names
    (
        FailureKind.THROTTLED,
        r"\b(429|503)\b|slow ?down|too many requests|request rate|service ?unavailable|egress.*limit",
    ),
    # 400 is what stores say of a token or signature that they cannot use.
    (FailureKind.EXPIRED, r"\b(400|401|403)\b|access ?denied|forbidden|expired|AuthenticationFailed"),
    (FailureKind.MISSING, r"\b(404|410)\b|no such file|does not exist|not found|NoSuchKey"),
    (
        FailureKind.TRANSIENT,
        r"\b(408|409|425|50[0247]|52\d)\b|internal ?error|time[d ]*out|connect|curl|reset by peer|resolve host|"
        r"temporar",
    ),
    (FailureKind.UNUSABLE, r"not north-up|must hold one|has no CRS"),
)


class AccessRefused(ConnectionError):
    """An address could not be signed."""


@dataclass(frozen=True)
class Failure:
    """Why there are no pixels."""

    kind: FailureKind
    reason: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """An error's class and words, without the queries of addresses: they may hold signatures."""
        said = re.sub(r"\?[^\s'\"]+", "?...", f"{type(error).__name__}: {error}")
        return cls(classify(error), said[:500])


@dataclass
class Request:
    """One asset over one window.

    Attributes:
        asset: as the catalog describes it.
        window: target; the crop is what the file must give for it.
        dtype, nodata: what holds where neither catalog nor file says.
        mask: the pixels are codes; what the file calls nodata is one of them.
        footprint: of the scene, WGS 84; where the catalog's grid lies elsewhere, the file is asked for its own.
        sign: unsigned address to one that can be opened, called anew before every attempt. If it has a method
            ``invalidate(href)``, that is called first when the last attempt was refused (401, 403); if it has
            ``gdal_options(href)``, the file is opened under that configuration.
        header: of the file: from the catalog, corrected by the file.
        pixels: the crop once read, and ``origin`` its first column and row in the file.
        failure: why there are none.
        tried: failed attempts by class.
    """

    asset: Asset
    window: Window
    dtype: str
    nodata: float
    sign: Sign | None = None
    mask: bool = False
    footprint: BaseGeometry | None = None
    header: Header | None = None
    pixels: NDArray | None = None
    origin: tuple[int, int] = (0, 0)
    failure: Failure | None = None
    tried: Counter[FailureKind] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        asset = self.asset
        if self.header is None and asset.epsg is not None and asset.transform and asset.shape:
            try:
                grid = FileGrid.of(asset.epsg, asset.transform, asset.shape, asset.href)
            except ValueError as error:
                self.failure = Failure(FailureKind.UNUSABLE, str(error))
            else:
                self.header = Header(grid, asset.dtype or self.dtype, asset.nodata)

    @property
    def attempts(self) -> int:
        """Failed ones in all."""
        return self.tried.total()

    @property
    def grid(self) -> FileGrid:
        assert self.header is not None, "a request without header was never fetched"
        return self.header.grid

    @property
    def file_nodata(self) -> float:
        """Stored number that means "not measured": the catalog's word, else the file's, else the source's.

        Of these the first that the file's pixels can hold; where they hold none, 0.
        """
        dtype = self.header.dtype if self.header else self.dtype
        for stated in (self.asset.nodata, self.header.nodata if self.header else None, self.nodata):
            if stated is not None and (held := held_nodata(stated, dtype)) is not None:
                return held
        return 0.0


def classify(error: BaseException) -> FailureKind:
    """The class of a reading error, from its type and from the words of the whole chain of causes."""
    if isinstance(error, HeaderMismatch):
        return FailureKind.MISDESCRIBED
    words, of_this_machine = [], False
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, AccessRefused | ImportError):  # a package for this kind of address is not installed
            return FailureKind.REFUSED
        if isinstance(link, CorruptBlock):
            return FailureKind.CORRUPT
        if isinstance(link, FileNotFoundError):
            return FailureKind.MISSING
        if isinstance(link, TimeoutError | ConnectionError):
            return FailureKind.TRANSIENT
        if isinstance(link, PermissionError):
            return FailureKind.REFUSED
        if isinstance(link, MemoryError):
            return FailureKind.TRANSIENT
        of_this_machine |= isinstance(link, OSError) and link.errno is not None
        words.append(f"{type(link).__name__} {link}")
        link = link.__cause__ or link.__context__
    text = " ".join(words)
    # Addresses hold numbers that look like status codes.
    text = re.sub(r"\S*[/\\]\S*", " ", text)
    for kind, pattern in _PATTERNS:
        if re.search(pattern, text, re.IGNORECASE):
            return kind
    if of_this_machine:  # too many open files, no space, a disk that fails
        return FailureKind.TRANSIENT
    return FailureKind.UNUSABLE if isinstance(error, ValueError) else FailureKind.CORRUPT


def local_path(href: str) -> str:
    """A ``file://`` address as a path; anything else unchanged."""
    if not href.startswith("file://"):
        return href
    path = href.removeprefix("file://")
    return path if os.path.exists(path) else unquote(path)


def signer_of(signers: Signers, scene: Scene) -> Sign | None:
    """Who signs a scene's addresses.

    Raises:
        ValueError: signers are given by catalog, and the scene's is not among them.
    """
    if signers is None or callable(signers):
        return signers
    if scene.catalog not in signers:
        raise ValueError(f"scene {scene.scene_id} is of catalog {scene.catalog!r}, for which there is no signer")
    return signers[scene.catalog]


def fetch(requests: Sequence[Request], engine: Engine, *, threads: int = 8) -> None:
    """Fills every request with pixels or a failure, or leaves both None where the file has no pixel in the window.

    Args:
        requests: changed in place.
        engine: reads the crops.
        threads: concurrent reads.
    """
    pending = [request for request in requests if request.failure is None]
    pause_s = BACKOFF_S
    while pending:
        ready: list[tuple[Request, Crop]] = []
        for request, prepared in zip(pending, _prepare(pending, threads), strict=True):
            if isinstance(prepared, Exception):
                _settle(request, prepared)
            else:
                request.failure = None
                if prepared is not None:
                    ready.append((request, prepared))
        results = engine.read([crop for _, crop in ready], threads)
        for (request, crop), result in zip(ready, results, strict=True):
            if isinstance(result, HeaderMismatch) and not request.tried[FailureKind.MISDESCRIBED]:
                request.tried[FailureKind.MISDESCRIBED], request.header = 1, result.header
                request.failure = Failure(FailureKind.MISDESCRIBED, str(result))
            elif isinstance(result, Exception):
                _settle(request, result)
            else:
                request.pixels, request.origin = result, (crop.col, crop.row)
        pending = [request for request in pending if request.failure and _may_try(request)]
        if any(request.failure.kind not in _AT_ONCE for request in pending if request.failure):
            time.sleep(pause_s)
            pause_s *= 2


def renewed(sign: Sign, href: str, refused: str) -> str:
    """A signed address in place of a refused one: that which another reader has had renewed since, or a new one.

    Raises:
        AccessRefused: there is none.
    """
    fresh = local_path(signed_by(sign, href))
    if fresh == refused and hasattr(sign, "invalidate"):
        sign.invalidate(href)
        fresh = local_path(signed_by(sign, href))
    return fresh


def retrying(action: Callable[[str], T], href: str, sign: Sign | None) -> T | Failure:
    """What an action makes of a signed address, tried as often as its class of failure deserves."""
    tried: Counter[FailureKind] = Counter()
    pause_s = BACKOFF_S
    while True:
        try:
            return action(local_path(signed_by(sign, href) if sign else href))
        except Exception as error:  # becomes a recorded failure
            failure = Failure.of(error)
            tried[failure.kind] += getattr(error, "asked", 1)
        if tried[failure.kind] >= ATTEMPTS[failure.kind]:
            return failure
        if failure.kind is FailureKind.EXPIRED and sign is not None and hasattr(sign, "invalidate"):
            sign.invalidate(href)
        time.sleep(pause_s)
        pause_s *= 2


def signed_by(ask: Callable[[str], T], href: str) -> T:
    """What a signer says of an address.

    Raises:
        AccessRefused: it says nothing that opens the address.
    """
    try:
        return ask(href)
    except Exception as error:
        raise AccessRefused(f"{type(error).__name__}: {error}") from error


def storage_options(sign: Sign | None, href: str) -> dict[str, Any]:
    """Keywords of the file system of fsspec that reads an address; none where the signer knows of none.

    Raises:
        AccessRefused: as :func:`signed_by`.
    """
    ask = getattr(sign, "storage_options", None)
    return signed_by(ask, href) if ask else {}


def _prepare(requests: Sequence[Request], threads: int) -> list[Crop | Exception | None]:
    """The crop of every request; files that the catalog does not describe are opened for their headers."""

    def one(request: Request) -> Crop | Exception | None:
        try:
            href = request.asset.href
            signed = local_path(signed_by(request.sign, href) if request.sign else href)
            options = getattr(request.sign, "gdal_options", None)
            settings = tuple(sorted(signed_by(options, href).items())) if options else ()
            again = request.attempts > 0
            if request.header is None:
                request.header = read_header(signed, settings, again=again)
            header = request.header
            found = extent(header.grid, request.window)
            place, corrected = request.footprint, request.tried[FailureKind.MISDESCRIBED]
            if found is None and place is not None and not (corrected or lies_under(header.grid, place)):
                request.header = header = read_header(signed, settings, again=again)
                found = extent(header.grid, request.window)
            if found is None:
                return None
            return Crop(
                signed,
                header.grid,
                header.dtype,
                request.file_nodata,
                *found,
                again=again,
                settings=settings,
                name=local_path(href),
                codes=request.mask,
                nodata_assumed=not request.mask and request.asset.nodata is None and header.nodata is None,
                renew=partial(renewed, request.sign, href) if request.sign else None,
            )
        except Exception as error:  # settled by the caller like any failed read
            return error

    if all(request.header is not None for request in requests):
        return [one(request) for request in requests]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, requests))


def _settle(request: Request, error: Exception) -> None:
    """Records a failed attempt."""
    request.failure = Failure.of(error)
    request.tried[request.failure.kind] += getattr(error, "asked", 1)
    sign = request.sign
    if (
        request.failure.kind is FailureKind.EXPIRED
        and sign is not None
        and hasattr(sign, "invalidate")
        and _may_try(request)
    ):
        sign.invalidate(request.asset.href)


def _may_try(request: Request) -> bool:
    failure = request.failure
    return failure is not None and request.tried[failure.kind] < ATTEMPTS[failure.kind]
