"""Patience with servers: how long to wait before asking again, and how many may ask at once."""

from __future__ import annotations

import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import TypeVar

T = TypeVar("T")
Renew = Callable[[str], str]
"""A refused address to one with a new signature; the same one where there is none to be had."""
LONGEST_WAIT_S = 120.0
# Requests in all: of a server that is busy or failing or hangs up, of one that has no such file (object stores say so
# for a moment under load, so it is asked once more), and of one that answers anything else.
PASSING, ABSENT, FINAL = 4, 2, 1
_STATUS = dict.fromkeys((408, 429, 500, 502, 503, 504), PASSING) | dict.fromkeys((404, 410), ABSENT)
EXPIRED = (401, 403)
FIRST_WAIT_S = 0.25
JITTER = 0.25  # of a wait, at most, so that those who were refused together do not come back together


class RefusedRequest(OSError):
    """An answer that is no success.

    Attributes:
        status: of HTTP.
        asked: how often a failure of its class was met.
    """

    def __init__(self, status: int, headers: Mapping[str, str], said: str = "") -> None:
        super().__init__(f"HTTP response code: {status}")
        self.status, self.headers, self.said = status, headers, said
        self.asked = 1


def patiently(ask: Callable[[], T], first_s: float = FIRST_WAIT_S) -> T:
    """What one request gives, asked again as often as its failure deserves.

    Args:
        ask: makes the request; fails with a :class:`RefusedRequest`, or a ``ConnectionError`` where the server
            cannot be reached or hangs up.
        first_s: the first wait where the server asks for none; doubles.

    Failures are counted by class: a "not found" after a "come back later" is the first of its kind, not confirmed yet.

    Raises:
        RefusedRequest, ConnectionError: the last failure; its ``asked`` says how often one of its class was met.
    """
    met: Counter[int] = Counter()  # by the limit of a class, which is its own
    headers: Mapping[str, str]
    while True:
        try:
            return ask()
        except (RefusedRequest, ConnectionError) as error:
            limit, headers, said = PASSING, {}, ""
            if isinstance(error, RefusedRequest):
                limit, headers, said = _STATUS.get(error.status, FINAL), error.headers, error.said
            met[limit] += 1
            error.asked = met[limit]  # type: ignore[union-attr]
            if met[limit] >= limit:
                raise
        time.sleep(wait_s(met.total() - 1, headers, said, first_s) * random.uniform(1, 1 + JITTER))


def wait_s(attempt: int, headers: Mapping[str, str], body: str = "", first_s: float = 0.5) -> float:
    """Seconds to wait after a failed attempt (0, 1, ...): what the server asks for, else doubling from ``first_s``.

    Args:
        attempt: number of the attempt that failed.
        headers: of the answer; ``Retry-After`` is seconds or a date.
        body: of the answer; Planetary Computer says "try again in N seconds" there.
        first_s: the first wait when the server asks for none.
    """
    asked = {name.lower(): value for name, value in headers.items()}.get("retry-after", "").strip()
    if asked:
        try:
            seconds = float(asked)
            if not math.isnan(seconds):
                return min(max(seconds, 0.0), LONGEST_WAIT_S)
        except ValueError:
            try:
                moment = parsedate_to_datetime(asked)
            except ValueError:
                moment = None  # neither form: wait as if nothing was said
            if moment is not None:
                # A date without a zone is UTC (RFC 9110).
                moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
                return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_WAIT_S)
    if found := re.search(r"try again in (\d+(?:\.\d+)?)", body, re.IGNORECASE):
        return min(float(found[1]), LONGEST_WAIT_S)
    return min(first_s * 2.0**attempt, LONGEST_WAIT_S)


def patiently_signed(ask: Callable[[str], T], url: str, renew: Renew | None) -> tuple[T, str]:
    """As :func:`patiently`, of an address whose signature may run out: once, a refused one is asked for anew.

    Returns:
        What the request gives, and the address that gave it.

    Raises:
        RefusedRequest, ConnectionError: as :func:`patiently`.
    """
    try:
        return patiently(partial(ask, url)), url
    except RefusedRequest as error:
        if error.status not in EXPIRED or renew is None or (fresh := renew(url)) == url:
            raise
    return patiently(partial(ask, fresh)), fresh


@lru_cache(maxsize=64)
def gate(host: str, limit: int) -> threading.BoundedSemaphore:
    """Lets at most ``limit`` requests of this process be with one host at once, whoever makes them."""
    return threading.BoundedSemaphore(limit)
