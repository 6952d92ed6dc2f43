"""Reading many files that may fail: classes of failure, retries, renewed signatures, corrected headers.

Nothing that fails turns into nodata: a request comes back with pixels or with a :class:`Failure`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from numpy.typing import NDArray

from pipelines.coregister.engines import Crop, Engine, FileGrid, Header, HeaderMismatch, read_header
from pipelines.coregister.warp import extent
from pipelines.grid import Window
from pipelines.scenes import Asset

Sign = Callable[[str], str]


class FailureKind(StrEnum):
    """Why a file could not be read, which decides how often it is tried."""

    THROTTLED = "throttled"
    EXPIRED = "expired"
    TRANSIENT = "transient"
    MISSING = "missing"
    CORRUPT = "corrupt"
    UNUSABLE = "unusable"  # the file is sound but not what can be read here


# Attempts in all. A missing file is tried twice: object stores answer 404 for a moment under load.
ATTEMPTS = {
    FailureKind.THROTTLED: 6,
    FailureKind.EXPIRED: 3,
    FailureKind.TRANSIENT: 4,
    FailureKind.MISSING: 2,
    FailureKind.CORRUPT: 3,
    FailureKind.UNUSABLE: 1,
}
BACKOFF_S = 0.25
_PATTERNS = (
    (FailureKind.THROTTLED, r"\b(429|503)\b|slow ?down|too many requests|egress.*limit"),
    (FailureKind.EXPIRED, r"\b(401|403)\b|access ?denied|forbidden|expired|AuthenticationFailed"),
    (FailureKind.MISSING, r"\b(404|410)\b|no such file|does not exist|not found|NoSuchKey"),
    (FailureKind.TRANSIENT, r"\b(500|502|504)\b|time[d ]*out|connection|curl|reset by peer|resolve host|temporar"),
    (FailureKind.UNUSABLE, r"not north-up|must hold one|EPSG code"),
)


@dataclass(frozen=True)
class Failure:
    """Why there are no pixels."""

    kind: FailureKind
    reason: str


@dataclass
class Request:
    """One asset over one window.

    Attributes:
        asset: as the catalog describes it.
        window: target; the crop is what the file must give for it.
        dtype, nodata: what holds where neither catalog nor file says.
        header: of the file: from the catalog, corrected by the file.
        pixels: the crop once read, and ``origin`` its first column and row in the file.
        failure: why there are none.
    """

    asset: Asset
    window: Window
    dtype: str
    nodata: float
    header: Header | None = None
    pixels: NDArray | None = None
    origin: tuple[int, int] = (0, 0)
    failure: Failure | None = None
    attempts: int = 0

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
    def grid(self) -> FileGrid:
        assert self.header is not None, "a request without header was never fetched"
        return self.header.grid

    @property
    def file_nodata(self) -> float:
        """Stored number that means "not measured": the catalog's word, else the file's, else the source's."""
        for stated in (self.asset.nodata, self.header.nodata if self.header else None):
            if stated is not None:
                return stated
        return self.nodata


def classify(error: BaseException) -> FailureKind:
    """The class of a reading error, from its type and from the words of the whole chain of causes."""
    words = []
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, FileNotFoundError):
            return FailureKind.MISSING
        if isinstance(link, TimeoutError | ConnectionError):
            return FailureKind.TRANSIENT
        words.append(str(link))
        link = link.__cause__ or link.__context__
    text = " ".join(words)
    # Addresses hold numbers that look like status codes.
    text = re.sub(r"\S*[/\\]\S*", " ", text)
    for kind, pattern in _PATTERNS:
        if re.search(pattern, text, re.IGNORECASE):
            return kind
    return FailureKind.UNUSABLE if isinstance(error, ValueError) else FailureKind.CORRUPT


def local_path(href: str) -> str:
    """A ``file://`` address as a path; anything else unchanged."""
    return href.removeprefix("file://") if href.startswith("file://") else href


def fetch(
    requests: Sequence[Request],
    engine: Engine,
    *,
    sign: Sign | None = None,
    threads: int = 8,
    backoff_s: float = BACKOFF_S,
) -> None:
    """Fills every request with pixels or a failure, or leaves both None where the file has no pixel in the window.

    Args:
        requests: changed in place.
        engine: reads the crops.
        sign: unsigned address to one that can be opened, called anew before every attempt. If it has a method
            ``invalidate(href)``, that is called first when the last attempt was refused (401, 403).
        threads: concurrent reads.
        backoff_s: first pause before a throttled or transient failure is tried again; doubles.
    """
    pending = [request for request in requests if request.failure is None]
    pause_s = backoff_s
    while pending:
        signed = [local_path(sign(request.asset.href) if sign else request.asset.href) for request in pending]
        again: list[Request] = []
        ready: list[tuple[Request, Crop]] = []
        headers = _missing_headers(pending, signed, threads)
        for request, href, header in zip(pending, signed, headers, strict=True):
            if isinstance(header, Exception):
                _settle(request, header, sign, again)
                continue
            request.header, request.failure = header, None
            found = extent(header.grid, request.window)
            if found is not None:
                col, row, width, height = found
                retried = request.attempts > 0
                crop = Crop(href, header.grid, header.dtype, request.file_nodata, col, row, width, height, retried)
                ready.append((request, crop))
        results = engine.read([crop for _, crop in ready], threads)
        for (request, crop), result in zip(ready, results, strict=True):
            if isinstance(result, HeaderMismatch):
                if request.attempts:
                    _settle(request, result, sign, again)
                else:
                    request.attempts += 1
                    request.header = result.header
                    again.append(request)
            elif isinstance(result, Exception):
                _settle(request, result, sign, again)
            else:
                request.pixels, request.origin, request.failure = result, (crop.col, crop.row), None
        if any(request.failure and request.failure.kind is not FailureKind.EXPIRED for request in again):
            time.sleep(pause_s)
            pause_s *= 2
        pending = again


def _missing_headers(requests: Sequence[Request], hrefs: Sequence[str], threads: int) -> list[Header | Exception]:
    """What is known of every file; files that the catalog does not describe are opened."""

    def look(index: int) -> Header | Exception:
        known = requests[index].header
        if known is not None:
            return known
        try:
            return read_header(hrefs[index], again=requests[index].attempts > 0)
        except Exception as error:  # settled by the caller like any failed read
            return error

    if all(request.header is not None for request in requests):
        return [look(index) for index in range(len(requests))]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(look, range(len(requests))))


def _settle(request: Request, error: Exception, sign: Sign | None, again: list[Request]) -> None:
    """Records a failure, and decides whether to try once more."""
    kind = classify(error)
    request.attempts += 1
    request.failure = Failure(kind, f"{type(error).__name__}: {error}"[:500])
    if request.attempts < ATTEMPTS[kind]:
        if kind is FailureKind.EXPIRED and hasattr(sign, "invalidate"):
            sign.invalidate(request.asset.href)
        again.append(request)
