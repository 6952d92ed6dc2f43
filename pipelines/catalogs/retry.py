"""Patience with servers: how long to wait before asking again, and how many may ask at once."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

LONGEST_WAIT_S = 120.0


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
            return min(max(float(asked), 0.0), LONGEST_WAIT_S)
        except ValueError:
            try:
                moment = parsedate_to_datetime(asked)
            except ValueError:
                moment = None  # neither form: wait as if nothing was said
            if moment is not None:
                return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_WAIT_S)
    if found := re.search(r"try again in (\d+(?:\.\d+)?)", body, re.IGNORECASE):
        return min(float(found[1]), LONGEST_WAIT_S)
    return min(first_s * 2.0**attempt, LONGEST_WAIT_S)


@lru_cache(maxsize=64)
def gate(host: str, limit: int) -> threading.BoundedSemaphore:
    """Lets at most ``limit`` requests of this process be with one host at once, whoever makes them."""
    return threading.BoundedSemaphore(limit)
