"""Reading producer facts of a scene under the names that catalogs give them, and the validity of acquisitions.

Knows scenes only; which facts matter is for each source's module to say.
"""

from __future__ import annotations

from pipelines.scenes import Scene


def fact(scene: Scene, *names: str) -> object | None:
    """The first of several names that the scene's facts hold, with or without a STAC prefix (``sat:orbit_state``)."""
    for name in names:
        if scene.facts.get(name) is not None:
            return scene.facts[name]
    bare = {str(key).rsplit(":", 1)[-1]: value for key, value in scene.facts.items() if value is not None}
    for name in names:
        if name in bare:
            return bare[name]
    return None


def number(scene: Scene, *names: str) -> float | None:
    """A fact as a number, or None where the scene does not carry it.

    Raises:
        ValueError: the fact is there but is not a number.
    """
    value = fact(scene, *names)
    if value is None:
        return None
    try:
        return float(str(value))
    except ValueError:
        raise ValueError(f"scene {scene.scene_id}: fact {names[0]} = {value!r} is not a number") from None


def label(scene: Scene, *names: str) -> str:
    """A fact as lower-case text, empty where the scene does not carry it."""
    value = fact(scene, *names)
    return "" if value is None else str(value).lower()
