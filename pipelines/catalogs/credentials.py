"""What a plan must not hold, as it is kept and shared: signatures of addresses, keys and passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

_KEY = re.compile(
    r"authorization|bearer|(api|access|account)[-_]?key|secret|passw|cookie|connection_string|credential|"
    r"(^|[-_])(token|pwd)$|^(key|auth)$",
    re.I,
)
_NONE = (None, "", False, True, "anon", "google_default", "cloud", "cache", "browser")
_SIGNING = re.compile(
    r"^(sig|signature|(.*[-_])?(token|key|jwt|auth|pwd)|sas|key-pair-id|x-(amz|goog)-.*|.*(api_?key|secret|passw).*)$",
    re.I,
)
REMEDY = (
    "keep it out of the configuration: in AWS_ACCESS_KEY_ID and its like, GOOGLE_APPLICATION_CREDENTIALS, or ~/.netrc "
    "(storage_options: {client_kwargs: {trust_env: true}})"
)


def unsigned(href: str) -> str:
    """An address without user, password and signature; any other query stays.

    A signature ends within hours, and whoever reads the file makes one of its own.
    """
    if "://" not in href:
        return href
    parts = urlsplit(href)
    signed = any(_SIGNING.match(name) for name, _ in parse_qsl(parts.query))
    # Before an "@" web addresses have a user, buckets keys with a colon, Azure's file systems a container.
    before, _, after = parts.netloc.rpartition("@")
    host = after if parts.scheme in ("http", "https") or ":" in before else parts.netloc
    return urlunsplit(parts._replace(netloc=host, query="" if signed else parts.query))


def without_credentials(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without keys and passwords."""
    return {name: _cleaned(value) for name, value in options.items() if not _holds(str(name), value)}


def _cleaned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_credentials(value)
    return [_cleaned(inner) for inner in value] if isinstance(value, list | tuple) else value


def refuse_credentials(catalog: str, url: str, options: Mapping[str, Any]) -> None:
    """Says of which key of a catalog's settings a credential is, without repeating it.

    Raises:
        ValueError: there is one.
    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError(f"catalogs.{catalog}.url: holds a user name or password; {REMEDY}")
    if unsigned(url) != url:
        raise ValueError(f"catalogs.{catalog}.url: holds a signature; {REMEDY}, or name a signer")
    for where, name, value in _entries(f"catalogs.{catalog}.options", options):
        if _holds(name, value):
            raise ValueError(f"{where}: holds a credential; {REMEDY}")


def _holds(name: str, value: Any) -> bool:
    return not isinstance(value, Mapping | list | tuple) and bool(_KEY.search(name)) and value not in _NONE


def _entries(where: str, value: Any) -> Iterator[tuple[str, str, Any]]:
    """Every key below a value, with its path."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, inner in pairs:
        yield f"{where}.{name}", str(name), inner
        yield from _entries(f"{where}.{name}", inner)
