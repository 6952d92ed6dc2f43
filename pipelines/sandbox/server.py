"""The sandbox's server: any static STAC catalog as a STAC API, its assets by byte range, and faults on request.

Run one with ``python -m pipelines.sandbox.server --catalog FOLDER``; from code, :func:`running_server` starts one in a
process of its own. Besides the STAC API it answers

* ``/assets/...``: the files that items name, and nothing else;
* ``/sign?href=`` and ``/sign/token/{container}``: short-lived access tokens in the manner of Planetary Computer;
* ``/_sandbox/faults``: GET the faults in force and what was served, PUT other ones.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from pipelines.grid import format_time
from pipelines.sandbox.faults import FaultMiddleware, Faults, Switchboard
from pipelines.sandbox.library import Library
from pipelines.sandbox.process import ServerError, running_server

__all__ = ["ServerError", "create_app", "main", "running_server", "serve"]

# One read of at most this much is answered at once; longer ones are streamed. COG blocks are far smaller.
_AT_ONCE_BYTES = 4 * 2**20
_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")


class _File(FileResponse):
    chunk_size = 2**20


class Assets:
    """ASGI application that serves the files of a library's assets, signed or not."""

    def __init__(self, library: Library, switchboard: Switchboard, signer: Tokens) -> None:
        self.library = library
        self.switchboard = switchboard
        self.signer = signer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self.respond(Request(scope))
        await response(scope, receive, send)

    def respond(self, request: Request) -> Response:
        """The answer to one request for (a part of) a file."""
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("Method Not Allowed", 405, {"Allow": "GET, HEAD"})
        relative = request.scope["path"].removeprefix(request.scope.get("root_path", "")).removeprefix("/")
        query: Mapping[str, str] = request.query_params
        if relative.startswith("exp="):  # a token in front of the path, for stores of many files
            token, _, relative = relative.partition("/")
            query = dict(parse_qsl(token))
        required = self.switchboard.strikes("signature", f"/assets/{relative}", "")
        if required and (problem := self.signer.problem(relative, query)):
            return PlainTextResponse(problem, 403)
        file = self.library.asset(relative)
        if file is None or not file.is_file():
            return PlainTextResponse("Not Found", 404)
        status = os.stat(file)
        wanted = _RANGE.match(request.headers.get("range", ""))
        if request.method == "GET" and wanted and "if-range" not in request.headers:
            first = int(wanted[1])
            last = min(int(wanted[2] or status.st_size - 1), status.st_size - 1)
            if first <= last < first + _AT_ONCE_BYTES:
                return _part(file, first, last, status.st_size)
        return _File(file, stat_result=status)


class Tokens:
    """Access tokens: an expiry and its HMAC, for one container (the first folder below ``/assets``)."""

    def __init__(self, switchboard: Switchboard) -> None:
        self.switchboard = switchboard
        self._key = secrets.token_bytes(16)

    def issue(self, container: str) -> tuple[str, int]:
        """A query string that gives access to a container, and when it ends (epoch milliseconds)."""
        fault = self.switchboard.fault("signature")
        expiry_ms = round((time.time() + (fault.seconds if fault else 2700.0)) * 1000)
        return f"exp={expiry_ms}&sig={self._signature(container, str(expiry_ms))}", expiry_ms

    def problem(self, relative: str, query: Mapping[str, str]) -> str | None:
        """Why a request is refused, None when its token is good."""
        expiry, signature = query.get("exp", ""), query.get("sig", "")
        if not expiry.isdigit() or not signature:
            return "Server failed to authenticate the request: no signature"
        if not hmac.compare_digest(signature, self._signature(container_of(relative), expiry)):
            return "Server failed to authenticate the request: wrong signature"
        if int(expiry) < time.time() * 1000:
            return "Signature not valid in the specified time frame"
        return None

    def _signature(self, container: str, expiry: str) -> str:
        return hmac.new(self._key, f"{container}|{expiry}".encode(), hashlib.sha256).hexdigest()[:32]


def container_of(relative: str) -> str:
    """The unit of access of an asset path."""
    return relative.split("/", 1)[0]


def create_app(catalog_path: str | Path, faults: Mapping[str, Any] | Faults | None = None) -> FastAPI:
    """The whole server as an ASGI application.

    Args:
        catalog_path: folder of a static STAC catalog, or its ``catalog.json``.
        faults: as :meth:`Faults.parse` takes them.

    Raises:
        ValueError: when the catalog cannot be read or a fault is not known.
    """
    library = Library(catalog_path)
    switchboard = Switchboard(faults if isinstance(faults, Faults) else Faults.parse(faults))
    tokens = Tokens(switchboard)
    app = _build_api(library)
    app.state.switchboard = switchboard
    app.state.library = library

    def token(request: Request) -> Response:
        text, expiry_ms = tokens.issue(request.path_params["container"])
        return JSONResponse({"token": text, "msft:expiry": format_time(expiry_ms)})

    def sign(request: Request) -> Response:
        href = request.query_params.get("href", "")
        parts = urlsplit(href)
        if not parts.path.startswith("/assets/"):
            return JSONResponse({"href": href})
        text, expiry_ms = tokens.issue(container_of(parts.path.removeprefix("/assets/")))
        kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("exp", "sig")]
        query = "&".join(part for part in (urlencode(kept), text) if part)
        return JSONResponse({"href": parts._replace(query=query).geturl(), "msft:expiry": format_time(expiry_ms)})

    async def switch(request: Request) -> Response:
        if request.method == "PUT":
            try:
                switchboard.set(Faults.parse(await request.json()))
            except (ValueError, TypeError) as error:
                return JSONResponse({"description": str(error)}, 400)
        return JSONResponse(switchboard.report())

    app.add_route("/sign/token/{container:path}", token, methods=["GET"], include_in_schema=False)
    app.add_route("/sign", sign, methods=["GET"], include_in_schema=False)
    app.add_route("/_sandbox/faults", switch, methods=["GET", "PUT"], include_in_schema=False)
    app.mount("/assets", Assets(library, switchboard, tokens))
    app.add_middleware(FaultMiddleware, switchboard=switchboard)
    return app


def serve(
    catalog_path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8591,
    faults: Mapping[str, Any] | Faults | None = None,
    *,
    until_stdin_closes: bool = False,
) -> None:
    """Serve a catalog until interrupted; prints ``ready URL`` once it answers.

    Args:
        catalog_path: as for :func:`create_app`.
        host: where to listen.
        port: 0 takes a free one.
        faults: as for :func:`create_app`.
        until_stdin_closes: end when standard input does, so that a server never outlives the process that started it.

    Raises:
        ValueError: as :func:`create_app`; also when the address is taken.
    """
    # The protocol is named because asyncio sets TCP_NODELAY only then; without it each answer waits 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        said = f"cannot listen on {host}:{port} ({error.strerror}); choose another port, or 0 for a free one"
        raise ValueError(said) from error
    try:
        app = create_app(catalog_path, faults)
    except ValueError:
        listener.close()
        raise
    listener.listen(1024)
    # Faults that cut a connection are logged as errors by uvicorn; they are the purpose here.
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1))
    if until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    print(f"ready http://{host}:{listener.getsockname()[1]} {len(app.state.library)} items", flush=True)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()


def main(arguments: list[str] | None = None) -> int:
    """Command line of the server."""
    parser = argparse.ArgumentParser("python -m pipelines.sandbox.server", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--catalog", required=True, help="folder of a static STAC catalog")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8591, help="0 takes a free one")
    parser.add_argument("--faults", default="{}", help="JSON: fault name -> probability or settings")
    parser.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    try:
        faults = json.loads(chosen.faults)
        serve(chosen.catalog, chosen.host, chosen.port, faults, until_stdin_closes=chosen.until_stdin_closes)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _build_api(library: Library) -> FastAPI:
    # stac-fastapi warns about default titles while it is imported, before anyone can give it others; we do give them.
    log = logging.getLogger("stac_fastapi.types.config")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        from pipelines.sandbox.stac_api import build_api

        return build_api(library)
    finally:
        log.setLevel(level)


def _part(file: Path, first: int, last: int, size: int) -> Response:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        body = os.pread(descriptor, last - first + 1, first)
    finally:
        os.close(descriptor)
    headers = {"Content-Range": f"bytes {first}-{last}/{size}", "Accept-Ranges": "bytes"}
    return Response(body, 206, headers, media_type="application/octet-stream")


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)  # whoever it served is gone, and it holds nothing that must be written


if __name__ == "__main__":
    raise SystemExit(main())
