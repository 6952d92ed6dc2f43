"""The conventions of each provider's API: where it is, how it throttles, who signs. Sensors' quirks are not here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.catalogs.sign import Buckets, Earthdata, PlanetaryComputerSigner, SandboxSigner, Signer, Unsigned

_LATER = frozenset({408, 425, 429, 500, 503})


@dataclass(frozen=True)
class Provider:
    """How one provider's STAC API wants to be asked.

    Attributes:
        url: used where the configuration gives none.
        page_items: items asked for in a page.
        concurrent: requests with it at once, from one process.
        reads: files of its archive read at once, over all processes; None: as many as there are readers.
        retried: status codes that mean "later".
        signer: from the url and the signer's options.
        windows_months: span of one query.
    """

    url: str
    signer: Callable[[str, Mapping[str, Any]], Signer]
    page_items: int = 100
    concurrent: int = 4
    retried: frozenset[int] = _LATER
    windows_months: int = 1
    signer_options: frozenset[str] = field(default_factory=frozenset)
    reads: int | None = None


def _unsigned(url: str, options: Mapping[str, Any]) -> Signer:
    return Unsigned()


def _buckets(url: str, options: Mapping[str, Any]) -> Signer:
    return Buckets(options.get("s3_endpoint"))


def _cdse(url: str, options: Mapping[str, Any]) -> Signer:
    return Buckets(options.get("s3_endpoint", "eodata.dataspace.copernicus.eu"))


def _planetary_computer(url: str, options: Mapping[str, Any]) -> Signer:
    return PlanetaryComputerSigner()


def _earthdata(url: str, options: Mapping[str, Any]) -> Signer:
    return Earthdata()


def _sandbox(url: str, options: Mapping[str, Any]) -> Signer:
    return SandboxSigner(url) if options.get("signed", False) else Unsigned()


PROVIDERS: dict[str, Provider] = {
    # Pages above about 250 items exceed its Lambda's answer size (502); its throttle says 403 (pystac-client #659).
    "earth_search": Provider(
        "https://earth-search.aws.element84.com/v1",
        _buckets,
        retried=_LATER | {403},
        signer_options=frozenset({"s3_endpoint"}),
    ),
    "planetary_computer": Provider("https://planetarycomputer.microsoft.com/api/stac/v1", _planetary_computer),
    # Four connections at once are what its quota allows.
    "cdse": Provider(
        "https://stac.dataspace.copernicus.eu/v1", _cdse, signer_options=frozenset({"s3_endpoint"}), reads=4
    ),
    # One provider of data is one path below this address (LPCLOUD has GEDI).
    "cmr": Provider("https://cmr.earthdata.nasa.gov/stac/LPCLOUD", _earthdata, concurrent=2),
    "sandbox": Provider("http://127.0.0.1:8591", _sandbox, concurrent=8, signer_options=frozenset({"signed"})),
    "static": Provider("", _unsigned, signer_options=frozenset()),
    "zarr": Provider("", _unsigned, signer_options=frozenset()),
    "geoparquet": Provider("", _unsigned, signer_options=frozenset()),
}
