"""From the unsigned addresses that scenes carry to ones that can be opened: at read time, never in a plan.

A signer is picklable and cheap; what it learns (tokens) stays in the process. Credentials come from the environment and
are never part of a signer, a plan or a message.
"""

from __future__ import annotations

import netrc
import os
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx

from pipelines.grid import parse_time_ms
from pipelines.patience import wait_s

T = TypeVar("T")
PLANETARY_COMPUTER_TOKENS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
_AZURE = ".blob.core.windows.net"
_ATTEMPTS = 6
# Where AWS says who this process is: keys, a profile or a role; then what containers and clusters are given.
_AWS_NAMED = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN")
_AWS_GIVEN = (
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
AWS_REMEDY = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or write ~/.aws/credentials"
_MACHINE_VENDOR = Path("/sys/devices/virtual/dmi/id/sys_vendor")


class SigningError(ConnectionError):
    """No access to a container could be had."""


class Signer(Protocol):
    """Opens addresses. ``invalidate`` is called when an opened address was refused, before it is signed again."""

    def __call__(self, href: str) -> str:
        """The address that can be opened now."""
        ...

    def invalidate(self, href: str) -> None:
        """Forget what gave access to an address."""
        ...

    def gdal_options(self, href: str) -> dict[str, str]:
        """GDAL configuration with which an address is read; may hold credentials, so never log it."""
        ...

    def storage_options(self, href: str) -> dict[str, Any]:
        """The same for fsspec: the keywords of the file system that reads an address."""
        ...

    def authorization(self, href: str) -> str | None:
        """``Authorization`` header for the host of an address, redirects included; None: send none. Never log it."""
        ...


class Unsigned:
    """Addresses that anybody can open."""

    def __call__(self, href: str) -> str:
        return href

    def invalidate(self, href: str) -> None:
        """Nothing was remembered."""

    def gdal_options(self, href: str) -> dict[str, str]:
        return {}

    def storage_options(self, href: str) -> dict[str, Any]:
        return {}

    def authorization(self, href: str) -> str | None:
        return None


class Buckets(Unsigned):
    """S3 addresses: requester-pays buckets and other providers' endpoints; the account is found as AWS's tools find it.

    Buckets that are neither private nor requester-pays are read without keys.
    """

    REQUESTER_PAYS = frozenset({"usgs-landsat", "sentinel-s2-l1c", "sentinel-s2-l2a", "sentinel-s1-l1c"})
    PRIVATE = frozenset({"eodata"})

    def __init__(self, endpoint: str | None = None) -> None:
        """A signer of S3 addresses.

        Args:
            endpoint: host of an S3 service that is not AWS's (CDSE).
        """
        self.endpoint = endpoint

    def gdal_options(self, href: str) -> dict[str, str]:
        """See :class:`Signer`.

        Raises:
            SigningError: the bucket wants an account and the environment has none.
        """
        elsewhere = {"AWS_S3_ENDPOINT": self.endpoint or "", "AWS_VIRTUAL_HOSTING": "FALSE"}
        return self._options(href, elsewhere, {"AWS_NO_SIGN_REQUEST": "YES"}, {"AWS_REQUEST_PAYER": "requester"})

    def storage_options(self, href: str) -> dict[str, Any]:
        """See :class:`Signer`.

        Raises:
            SigningError: the bucket wants an account and the environment has none.
        """
        elsewhere: dict[str, Any] = {"endpoint_url": f"https://{self.endpoint}"}
        return self._options(href, elsewhere, {"anon": True}, {"requester_pays": True})

    def _options(
        self, href: str, elsewhere: dict[str, T], anonymous: dict[str, T], paying: dict[str, T]
    ) -> dict[str, T]:
        parts = urlsplit(href)
        if parts.scheme != "s3":
            return {}
        options = elsewhere if self.endpoint else {}
        if not self._wants_account(parts.netloc):
            return options | anonymous
        return options | (paying if parts.netloc in self.REQUESTER_PAYS else {})

    def _wants_account(self, bucket: str) -> bool:
        if bucket not in self.REQUESTER_PAYS | self.PRIVATE:
            return False
        # Another provider's bucket knows no role of AWS's, so a private one needs keys.
        if not (has_keys() or (bucket in self.REQUESTER_PAYS and has_role())):
            raise SigningError(f"s3://{bucket} needs an account: {AWS_REMEDY}")
        return True


def has_keys() -> bool:
    """Whether the environment or the user's file names an AWS account."""
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials")
    return any(os.environ.get(name) for name in _AWS_NAMED) or file.is_file()


def has_role() -> bool:
    """Whether the container or machine can be given credentials; whether its role allows the bucket, AWS will say."""
    if any(os.environ.get(name) for name in _AWS_GIVEN):
        return True
    return _MACHINE_VENDOR.is_file() and _MACHINE_VENDOR.read_text().strip() == "Amazon EC2"


class Earthdata(Unsigned):
    """NASA's archives: a bearer token from ``EARTHDATA_TOKEN``, else the user's ``~/.netrc``."""

    def __init__(
        self,
        hosts: tuple[str, ...] = ("earthdata.nasa.gov", "earthdatacloud.nasa.gov"),
        login: str = "urs.earthdata.nasa.gov",
    ) -> None:
        """A signer of NASA's addresses.

        Args:
            hosts: domains that may see the token. The archives redirect to storage that must not, and refuses it.
            login: host that takes name and password, to which the archives redirect who comes without a token.
        """
        self.hosts = hosts
        self.login = login

    def gdal_options(self, href: str) -> dict[str, str]:
        token = os.environ.get("EARTHDATA_TOKEN")
        cookies = os.path.join(os.path.expanduser("~"), ".urs_cookies")
        options = {"GDAL_HTTP_COOKIEFILE": cookies, "GDAL_HTTP_COOKIEJAR": cookies}
        if token:
            return options | {"GDAL_HTTP_AUTH": "BEARER", "GDAL_HTTP_BEARER": token}
        return options | {"GDAL_HTTP_NETRC": "YES"}

    def authorization(self, href: str) -> str | None:
        """See :class:`Signer`.

        Raises:
            SigningError: ``~/.netrc`` cannot be understood.
        """
        host = urlsplit(href).hostname or ""
        token = os.environ.get("EARTHDATA_TOKEN")
        if token:
            return f"Bearer {token}" if any(host == own or host.endswith(f".{own}") for own in self.hosts) else None
        path = Path.home() / ".netrc"
        if host != self.login or not path.is_file():
            return None
        try:
            found = netrc.netrc(str(path)).authenticators(host)
        except netrc.NetrcParseError as error:
            # Not its text: it may quote the line with the password.
            raise SigningError(f"{path}, line {error.lineno}: not a valid netrc file; mend it") from None
        return f"Basic {b64encode(f'{found[0]}:{found[2]}'.encode()).decode()}" if found else None


class TokenSigner(Unsigned):
    """Addresses that need a short-lived token in their query: one per container, kept until it is about to end."""

    def __init__(self, transport: Callable[[str], tuple[int, dict[str, str], str]] | None = None) -> None:
        """A signer without tokens yet.

        Args:
            transport: url -> (status, headers, body); default an HTTP GET. Must be picklable.
        """
        self.transport = transport or _get
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[str, float, float]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_tokens")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def token_url(self, href: str) -> str | None:
        """Where the token of an address's container is to be had; None for an address that needs none."""
        raise NotImplementedError

    def __call__(self, href: str) -> str:
        """The address with a token that is good for a while.

        Raises:
            SigningError: the provider gives no token.
        """
        url = self.token_url(href)
        if url is None:
            return href
        token = self.token(url)
        return f"{href}{'&' if '?' in href else '?'}{token}"

    def invalidate(self, href: str) -> None:
        url = self.token_url(href)
        with self._lock:
            self._tokens.pop(url or "", None)

    def token(self, url: str) -> str:
        """The token of a container, from memory while more than a tenth of its life is left."""
        # Under the lock, so that many threads that find a token old ask for one new one.
        with self._lock:
            text, renew_at, _ = self._tokens.get(url, ("", 0.0, 0.0))
            if time.time() < renew_at:
                return text
            text, expiry_s = self._fetch(url)
            now = time.time()
            self._tokens[url] = (text, expiry_s - max(0.1 * (expiry_s - now), min(60.0, 0.5 * (expiry_s - now))), now)
            return text

    def _fetch(self, url: str) -> tuple[str, float]:
        said = ""
        for attempt in range(_ATTEMPTS):
            try:
                status, headers, body = self.transport(url)
            except httpx.TransportError as error:
                status, headers, body = 0, {}, f"{type(error).__name__}: {error}"
            if status == 200:
                return _parse_token(url, body)
            said = f"HTTP {status}: {body[:200]}" if status else body
            if status and status not in (429, 500, 502, 503, 504):
                break
            if attempt + 1 < _ATTEMPTS:
                time.sleep(wait_s(attempt, headers, body))
        raise SigningError(f"no access token from {url}: {said}")


class PlanetaryComputerSigner(TokenSigner):
    """Azure blobs of Planetary Computer; ``PC_SDK_SUBSCRIPTION_KEY`` raises its limits where it is set."""

    def token_url(self, href: str) -> str | None:
        parts = urlsplit(href)
        if not parts.netloc.endswith(_AZURE) or "sig=" in parts.query:
            return None
        account = parts.netloc.removesuffix(_AZURE)
        container = parts.path.split("/")[1]
        return f"{PLANETARY_COMPUTER_TOKENS}/{account}/{container}"


class SandboxSigner(TokenSigner):
    """Assets of the sandbox's server, when it is told to want signatures."""

    def __init__(self, url: str, transport: Callable[[str], tuple[int, dict[str, str], str]] | None = None) -> None:
        """A signer for one server.

        Args:
            url: of the server.
            transport: as for :class:`TokenSigner`.
        """
        super().__init__(transport)
        self.url = url.rstrip("/")

    def token_url(self, href: str) -> str | None:
        prefix = f"{self.url}/assets/"
        if not href.startswith(prefix) or "sig=" in href:
            return None
        return f"{self.url}/sign/token/{href.removeprefix(prefix).split('/')[0]}"

    def __call__(self, href: str) -> str:
        url = self.token_url(href)
        if url is None or ".zarr" not in href:
            return super().__call__(href)
        # A store is read file by file below its address, so its token goes in front of the path.
        prefix = f"{self.url}/assets/"
        return f"{prefix}{self.token(url)}/{href.removeprefix(prefix)}"


def _get(url: str) -> tuple[int, dict[str, str], str]:
    key = os.environ.get("PC_SDK_SUBSCRIPTION_KEY")
    headers = {"Ocp-Apim-Subscription-Key": key} if key and url.startswith(PLANETARY_COMPUTER_TOKENS) else {}
    answer = httpx.get(url, headers=headers, timeout=30)
    return answer.status_code, dict(answer.headers), answer.text


def _parse_token(url: str, body: str) -> tuple[str, float]:
    try:
        answer = httpx.Response(200, text=body).json()
        return answer["token"], parse_time_ms(answer["msft:expiry"]) / 1000
    except (ValueError, KeyError, TypeError) as error:
        raise SigningError(f"{url} answered something that is no token: {body[:100]!r}") from error
