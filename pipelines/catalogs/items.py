"""From the items of a search to its scenes, each of them accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shapely import prepare
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from pipelines.catalogs.base import SceneSearch, UnusableItem
from pipelines.catalogs.normalise import normalise
from pipelines.grid import Period
from pipelines.scenes import Scene
from pipelines.sources.base import Kind, Source

ANY_ZONE = 32631  # of which a scene's rank is asked only to see whether it has one


def collect(
    found: SceneSearch,
    items: Iterable[tuple[Mapping[str, Any], str | None]],
    source: Source,
    catalog: str,
    area: BaseGeometry,
    period: Period | None,
) -> None:
    """Add the scenes of some items to a search, in order of time and id.

    An item that several windows returned counts once; another one of the same id is refused. Items that turn out to lie
    outside the area or period (a box was searched instead of an outline) are not part of the search at all.

    Args:
        found: what is added to.
        items: each with the address of its file, None where it tells its own.
        source: that the scenes are for.
        catalog: configured name.
        area: WGS 84.
        period: None for any time.
    """
    prepare(area)
    seen: dict[tuple[str, str], Mapping[str, Any]] = {}
    for item, base in items:
        if not isinstance(item, Mapping):
            found.refuse("the item is malformed (no JSON object)", str(item))
            continue
        key = (str(item.get("collection")), str(item.get("id")))
        if key in seen:
            if _without_links(item) != _without_links(seen[key]):
                found.refuse("another item of the collection has the same id", str(item.get("id")))
            continue
        seen[key] = item
        try:
            scene = normalise(item, source, catalog, base=base)
            _understood(scene, source)
        except UnusableItem as error:
            found.refuse(str(error), str(item.get("id")))
            continue
        except (KeyError, TypeError, ValueError, AttributeError, ShapelyError) as error:
            # An item that breaks the STAC specification; one of them must not end a search.
            found.refuse(f"the item is malformed ({_said(error)})", str(item.get("id")))
            continue
        if not scene.footprint.intersects(area):
            continue
        if period is not None and source.kind is not Kind.STATIC and not _meets(scene.valid_ms, period):
            continue
        found.scenes.append(scene)
    found.scenes.sort(key=lambda scene: (scene.time_ms, scene.scene_id))


def _without_links(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item but for its links, which may differ by the query that found it."""
    return {name: value for name, value in item.items() if name != "links"}


def _said(error: Exception) -> str:
    """What is wrong in a few words, the same for all items of which it is wrong."""
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]!r}"
    return f"{type(error).__name__} of a value"


def _understood(scene: Scene, source: Source) -> None:
    """Reads the facts that the source will want when pixels are read.

    Raises:
        UnusableItem: one of them makes no sense.
    """
    try:
        source.keep(scene), source.acquisition_key(scene), source.rank(scene, ANY_ZONE), source.geometry(scene)
    except (ValueError, TypeError) as error:
        raise UnusableItem(f"a fact of the item makes no sense ({type(error).__name__})") from error


def _meets(valid_ms: tuple[int, int], period: Period) -> bool:
    return valid_ms[0] < period.end_ms and period.start_ms < valid_ms[1]
