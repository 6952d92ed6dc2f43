"""Faults that the sandbox server can show on request, so that retries are tested against what archives really do.

A fault strikes a request with a probability that depends only on the seed, the fault's name, what is asked for and how
often it was asked before: the order in which concurrent requests arrive changes nothing, and asking again may succeed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTROL_PATHS = ("/_mgmt", "/_sandbox")  # health and the switchboard itself never fail
_ALIASES = {
    "429": "throttled",
    "502": "too_large",
    "503": "unavailable",
    "404": "missing",
    "403": "expired",
    "signed": "signature",
}


@dataclass(frozen=True)
class Fault:
    """One kind of failure.

    Attributes:
        probability: that it strikes a request.
        path: shell pattern of the request paths it can strike (``/assets/*.tif``).
        seconds: latency: the delay; throttled, unavailable: the Retry-After; signature: how long a token is good for.
        by: "request": asking again draws again; "path": a path that is struck once is struck for ever.
        limit: too_large: the largest page that is still answered.
    """

    probability: float = 0.0
    path: str = "*"
    seconds: float = 0.0
    by: str = "request"
    limit: int = 0


_DEFAULTS = {
    "latency": Fault(seconds=0.04),
    "throttled": Fault(seconds=1.0),  # 429 with Retry-After
    "unavailable": Fault(seconds=0.0),  # 503
    "missing": Fault(path="/assets/*", by="path"),  # 404
    "truncated": Fault(path="/assets/*"),  # the promised length, half of the body
    "expired": Fault(path="/assets/*"),  # 403, as for a token that has run out
    "signature": Fault(path="/assets/*", seconds=2700.0),  # probability 1: every asset needs a valid token
    "too_large": Fault(path="*/search", limit=250),  # 502 for a page above the limit, as Earth Search does
}


@dataclass(frozen=True)
class Faults:
    """What can go wrong, by name; an empty one is a server without faults."""

    seed: int = 0
    by_name: Mapping[str, Fault] | None = None

    @classmethod
    def parse(cls, settings: Mapping[str, Any] | None) -> Faults:
        """Faults from plain settings: name -> probability, or name -> fields of :class:`Fault`; and ``seed``.

        Raises:
            ValueError: for an unknown fault or field, or a probability outside 0 to 1.
        """
        settings = dict(settings or {})
        seed = int(settings.pop("seed", 0))
        known = {field.name for field in fields(Fault)}
        chosen = {}
        for given, value in settings.items():
            name = _ALIASES.get(str(given), str(given))
            if name not in _DEFAULTS:
                raise ValueError(f"sandbox.faults: no fault named {given!r}; choose from {', '.join(_DEFAULTS)}")
            if isinstance(value, Mapping):
                unknown = set(value) - known
                if unknown:
                    raise ValueError(f"sandbox.faults.{given}: unknown {sorted(unknown)}; choose from {sorted(known)}")
                fault = replace(_DEFAULTS[name], probability=1.0)
                fault = replace(fault, **value)
            else:
                fault = replace(_DEFAULTS[name], probability=value)
            if not (isinstance(fault.probability, int | float) and 0 <= fault.probability <= 1):
                raise ValueError(
                    f"sandbox.faults.{given}: {fault.probability!r} is no probability (0 to 1) of striking a request; "
                    f"to set more, write {given}={{probability: 0.5, seconds: {_DEFAULTS[name].seconds:g}}}"
                )
            if fault.by not in ("request", "path"):
                raise ValueError(f"sandbox.faults.{given}.by: {fault.by!r} is neither 'request' nor 'path'")
            chosen[name] = fault
        return cls(seed, chosen)

    def settings(self) -> dict[str, Any]:
        """The inverse of :meth:`parse`."""
        return {"seed": self.seed, **{name: asdict(fault) for name, fault in (self.by_name or {}).items()}}


class Switchboard:
    """The faults in force, what was asked for and what was struck; shared by the requests of one server."""

    def __init__(self, faults: Faults) -> None:
        self._lock = threading.Lock()
        self.set(faults)

    def set(self, faults: Faults) -> None:
        """Put other faults in force and start counting afresh."""
        with self._lock:
            self.faults = faults
            self._asked: Counter[tuple[str, str]] = Counter()
            self.struck: Counter[str] = Counter()
            self.requests: Counter[str] = Counter()
            self.body_bytes: Counter[str] = Counter()

    def fault(self, name: str) -> Fault | None:
        """A fault that is switched on at all."""
        fault = (self.faults.by_name or {}).get(name)
        return fault if fault is not None and fault.probability > 0 else None

    def strikes(self, name: str, path: str, asked_for: str) -> Fault | None:
        """The fault, if it strikes this request; counts the request for this fault.

        Args:
            name: of the fault.
            path: of the request.
            asked_for: tells requests of one path apart (the byte range).
        """
        fault = self.fault(name)
        if fault is None or not fnmatchcase(path, fault.path):
            return None
        key = f"{path} {asked_for}" if fault.by == "request" else path
        with self._lock:
            turn = self._asked[name, key] if fault.by == "request" else 0
            self._asked[name, key] += 1
            struck = uniform(self.faults.seed, name, key, turn) < fault.probability
            self.struck[name] += struck
        return fault if struck else None

    def count(self, kind: str, size_bytes: int) -> None:
        """Record an answered request."""
        with self._lock:
            self.requests[kind] += 1
            self.body_bytes[kind] += size_bytes

    def report(self) -> dict[str, Any]:
        """Settings and counts, JSON-able."""
        with self._lock:
            return {
                "settings": self.faults.settings(),
                "struck": dict(self.struck),
                "requests": dict(self.requests),
                "body_bytes": dict(self.body_bytes),
            }


def uniform(seed: int, name: str, key: str, turn: int) -> float:
    """A number in [0, 1) that is the same for the same arguments on every machine."""
    digest = hashlib.blake2b(f"{seed}|{name}|{key}|{turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


class FaultMiddleware:
    """ASGI middleware that strikes requests with the faults of a switchboard and counts what is served."""

    def __init__(self, app: ASGIApp, switchboard: Switchboard) -> None:
        self.app = app
        self.switchboard = switchboard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = unquote(scope.get("path", ""))
        if scope["type"] != "http" or path.startswith(CONTROL_PATHS):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        asked_for = f"{scope['method']} {headers.get(b'range', b'').decode('latin-1')}"
        send = self._counted(path, send)
        if slow := self.switchboard.strikes("latency", path, asked_for):
            await asyncio.sleep(slow.seconds)
        if refusal := self._refusal(path, asked_for):
            await refusal(scope, receive, send)
            return
        if self.switchboard.fault("too_large"):
            receive, page_items = await _peek_limit(scope, receive)
            limit = self.switchboard.fault("too_large")
            if limit and fnmatchcase(path, limit.path) and page_items > limit.limit:
                self.switchboard.struck["too_large"] += 1
                await PlainTextResponse("Bad Gateway: response too large", 502)(scope, receive, send)
                return
        if scope["method"] != "HEAD" and self.switchboard.strikes("truncated", path, asked_for):
            await self.app(scope, receive, _Truncated(send))
            return
        await self.app(scope, receive, send)

    def _refusal(self, path: str, asked_for: str) -> Response | None:
        strikes = self.switchboard.strikes
        if fault := strikes("throttled", path, asked_for):
            said = {"code": "TooManyRequests", "description": f"try again in {fault.seconds:g} s"}
            return JSONResponse(said, 429, {"Retry-After": f"{fault.seconds:g}"})
        if fault := strikes("unavailable", path, asked_for):
            wait = {"Retry-After": f"{fault.seconds:g}"} if fault.seconds else {}
            return PlainTextResponse("Service Unavailable", 503, wait)
        if strikes("missing", path, asked_for):
            return PlainTextResponse("The specified key does not exist.", 404)
        if strikes("expired", path, asked_for):
            return PlainTextResponse("Signature not valid in the specified time frame", 403)
        return None

    def _counted(self, path: str, send: Send) -> Send:
        kind = path.split("/", 2)[1] or "landing"
        size = 0

        async def counted(message: Message) -> None:
            nonlocal size
            if message["type"] == "http.response.body":
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    self.switchboard.count(kind, size)
            await send(message)

        return counted


class _Truncated:
    """Sends the header of a whole answer, half of its body, and then nothing: the server drops the connection."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.left = 0
        self.whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            length = int(dict(message["headers"]).get(b"content-length", 0))
            self.whole = message["status"] >= 400 or length < 2
            self.left = length // 2
        elif not self.whole:
            body = message.get("body", b"")[: self.left]
            self.left -= len(body)
            if not body:
                return
            message = {"type": "http.response.body", "body": body, "more_body": True}
        await self.send(message)


async def _peek_limit(scope: Scope, receive: Receive) -> tuple[Receive, int]:
    """The page size that a search asks for, and a ``receive`` that gives the body again."""
    if scope["method"] != "POST":
        pairs = [part.partition("=") for part in scope.get("query_string", b"").decode("latin-1").split("&")]
        return receive, next((int(value) for key, _, value in pairs if key == "limit" and value.isdigit()), 0)
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        limit = json.loads(body).get("limit")
    except (ValueError, AttributeError):
        limit = None  # not a search; the application says so
    return again, limit if isinstance(limit, int) else 0
