"""pystac-client's transport with patience: retries, Retry-After, few requests at once, errors that name the query."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from pystac import Link
from pystac_client.stac_api_io import StacApiIO

from pipelines.catalogs.base import CatalogError
from pipelines.patience import gate, wait_s

TOO_LARGE = (502, 504)  # what gateways answer when a page took too long or grew too big
EMPTY_PAGES = 100  # in a row; some servers filter after they have cut their pages
_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,  # the answer ended early
    requests.exceptions.ContentDecodingError,
)


class PageTooLarge(CatalogError):
    """The server gave up on a page; a smaller one may do."""


class NotThere(CatalogError):
    """The server knows no such address."""


class PatientIO(StacApiIO):
    """Requests of one catalog."""

    def __init__(
        self,
        name: str,
        *,
        retried: frozenset[int],
        attempts: int = 6,
        concurrent: int = 4,
        timeout_s: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """A transport.

        Args:
            name: of the catalog, for messages.
            retried: status codes that mean "later".
            attempts: requests made before giving up.
            concurrent: requests of this process with the host at once.
            timeout_s: for connecting and for each read.
            headers: sent with every request.
        """
        super().__init__(headers=dict(headers or {}), timeout=timeout_s, max_retries=None)
        self.name, self.retried, self.attempts, self.concurrent = name, retried, attempts, concurrent
        # Short until the catalog has answered once: an address that is wrong should not cost minutes.
        self.answered = False

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """The text of an answer.

        Raises:
            PageTooLarge: a gateway gave up.
            NotThere: the answer is 404.
            CatalogError: no good answer after all attempts.
        """
        method = (method or "GET").upper()
        body = {"json": parameters} if method in ("POST", "PUT", "PATCH") else {"params": parameters or {}}
        said, tried = "", 0
        attempts = self.attempts
        for attempt in range(self.attempts):
            tried += 1
            answer_headers: Mapping[str, str] = {}
            text = ""
            try:
                with gate(urlsplit(href).netloc, self.concurrent):
                    answer = self.session.request(method, href, headers=headers, timeout=self.timeout, **body)
            except _BROKEN as error:
                said = f"cannot be reached ({_cause(error)})"
                attempts = self.attempts if self.answered else min(3, self.attempts)
            except requests.RequestException as error:
                raise CatalogError(self._message(method, href, parameters, str(error))) from error
            else:
                self.answered = True
                if answer.ok:
                    return answer.content.decode("utf-8")
                text, answer_headers = answer.text, answer.headers
                said = f"HTTP {answer.status_code}: {' '.join(text.split())[:200]}"
                gave_up = answer.status_code in TOO_LARGE
                if gave_up and ("limit" in (parameters or {}) or "limit=" in href):
                    raise PageTooLarge(self._message(method, href, parameters, said))
                if not gave_up and answer.status_code not in self.retried:
                    raised = NotThere if answer.status_code == 404 else CatalogError
                    raise raised(self._message(method, href, parameters, said))
                attempts = self.attempts
            if tried >= attempts:
                break
            time.sleep(wait_s(attempt, answer_headers, text))
        raise CatalogError(self._message(method, href, parameters, f"{said}, {tried} times"))

    def get_pages(
        self, url: str, method: str | None = None, parameters: dict[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Pages of items one after the other, until one names no next; pystac-client's ends where one is empty.

        Raises:
            ValueError: an answer that is no page of items, or too many empty ones in a row.
        """
        link: str | Link | None = url
        empty = 0
        while link is not None:
            page = self.read_json(link, method=method, parameters=parameters)
            if not isinstance(page.get("features"), list):
                raise ValueError("an answer has no list of features")
            empty = 0 if page["features"] else empty + 1
            if empty > EMPTY_PAGES:
                raise ValueError(f"{empty} empty pages in a row")
            if page["features"]:
                yield page
            following = next((found for found in page.get("links", []) if found["rel"] == "next"), None)
            link, method = Link.from_dict(following) if following else None, None

    def _message(self, method: str, href: str, parameters: dict[str, Any] | None, said: str) -> str:
        query = json.dumps({k: v for k, v in (parameters or {}).items() if v is not None})
        query = f" {query[:400]}" if parameters else ""
        return f"catalog {self.name}: {method} {href}{query}: {said}; check catalogs.{self.name}.url and the network"


def _cause(error: BaseException) -> str:
    """The innermost reason of a connection error, without the objects that requests prints around it."""
    seen: BaseException = error
    while True:
        inner = seen.__cause__ or seen.__context__ or next((a for a in seen.args if isinstance(a, BaseException)), None)
        inner = inner or getattr(seen, "reason", None)
        if not isinstance(inner, BaseException) or inner is seen:
            break
        seen = inner
    return str(getattr(seen, "strerror", None) or seen).strip() or type(error).__name__
