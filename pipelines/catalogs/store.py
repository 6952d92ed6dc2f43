"""A Zarr store that needs no catalog: one scene, everywhere and whenever, whose store says itself what it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from pipelines.catalogs.base import SceneSearch
from pipelines.catalogs.sign import Signer, Unsigned
from pipelines.grid import Period, parse_time_ms
from pipelines.scenes import Asset, Scene
from pipelines.sources.base import Kind, Source

ALWAYS = ("1900-01-01", "2100-01-01")
EVERYWHERE = (-180.0, -90.0, 180.0, 90.0)


class StoreCatalog:
    """One store of a series: ERA5 in Google's ARCO layout, a time-chunked mirror, months of one's own."""

    kind = "zarr"

    def __init__(
        self,
        name: str,
        url: str,
        *,
        open_kwargs: Mapping[str, Any] | None = None,
        units: Mapping[str, str] | None = None,
        accumulated: bool | None = None,
        bbox: Sequence[float] = EVERYWHERE,
        period: Sequence[str] = ALWAYS,
    ) -> None:
        """A catalog; nothing is read.

        Args:
            name: in the configuration.
            url: of the store.
            open_kwargs: for xarray, with ``storage_options`` for what opens the address (``{"token": "anon"}``).
            units: of variables whose store does not say.
            accumulated: whether hourly precipitation adds up since midnight (ERA5-Land as it is served); None: the
                data tell.
            bbox: what it covers, west, south, east, north.
            period: from when until when.
        """
        self.name, self.url = name, url
        self.signer: Signer = Unsigned()
        self.open_kwargs, self.units = dict(open_kwargs or {}), dict(units or {})
        self.accumulated = accumulated
        self.bbox = tuple(float(edge) for edge in bbox)
        self.valid_ms = parse_time_ms(str(period[0])), parse_time_ms(str(period[1]))

    def search(
        self, source: Source, collections: Sequence[str], area: BaseGeometry, period: Period | None
    ) -> SceneSearch:
        """See :class:`pipelines.catalogs.base.Catalog`."""
        found = SceneSearch()
        if source.kind is not Kind.SERIES:
            found.refuse(f"a store of maps by time holds no {source.kind} of {source.name}", self.url)
            return found
        outline = box(*self.bbox)
        if not outline.intersects(area) or (period and not period.intersects(Period(*self.valid_ms))):
            return found
        extra: dict[str, Any] = {"open_kwargs": self.open_kwargs, "units": self.units}
        if self.accumulated is not None:
            extra["accumulated"] = self.accumulated
        asset = Asset(self.url, "store", extra=extra)
        found.scenes.append(
            Scene(
                source=source.name,
                scene_id=self.url.split("://")[-1].rstrip("/").replace("/", "_"),
                catalog=self.name,
                collection=collections[0],
                time_ms=sum(self.valid_ms) // 2,
                valid_ms=self.valid_ms,
                footprint=outline,
                assets={"store": asset},
            )
        )
        return found
