"""What is wrong with a configuration, in the words of a person who writes YAML rather than those of pydantic."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails


class ConfigError(ValueError):
    """Something in the configuration that the user can mend; the message is one line."""


def _innermost(model: type[BaseModel], location: tuple[Any, ...]) -> tuple[Any, FieldInfo | None, tuple[Any, ...]]:
    """Of a place in the tree: its annotation, the innermost field that holds it, and the way there from the field."""
    annotation: Any = model
    field, below = None, 0
    for index, name in enumerate(location):
        models = _models(annotation)
        if not models:
            break
        if get_origin(annotation) in (dict, tuple):  # the name is a key or a position of a collection
            annotation = models[0]
        elif name in models[0].model_fields:
            field, below = models[0].model_fields[name], index + 1
            annotation = field.annotation
        else:
            return None, None, ()
    return annotation, field, location[below:]


def _known_keys(model: type[BaseModel], dotted: tuple[Any, ...]) -> list[str]:
    models = _models(_innermost(model, dotted[:-1])[0])
    return list(models[0].model_fields) if models else []


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _models(part)]


# What must be, by the type of a pydantic error, in the words of a person who writes YAML.
_MUST = {
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "string_type": "text (in quotes)",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "finite_number": "a finite number",
    "string_too_short": "text that is not empty",
    "literal_error": "{expected}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "multiple_of": "a multiple of {multiple_of}",
}
# Steps of a location that are pydantic's, not the file's: the key of a mapping itself, a member of a union of types.
_INSERTED = re.compile(r"\[key\]|str|(constrained-)?int|(literal|tuple)\[.*\]")


def _place(details: ErrorDetails) -> tuple[Any, ...]:
    return tuple(part for part in details["loc"] if not _INSERTED.fullmatch(str(part)))


def _message(details: list[ErrorDetails]) -> str:
    """What is wrong in one place; several details are those of the types that it may have."""
    first = details[0]
    if first["type"] == "missing":
        return "is missing"
    if first["type"] not in _MUST:
        return first["msg"].removeprefix("Value error, ")
    wanted = [_MUST[one["type"]].format(**one.get("ctx", {})) for one in details if one["type"] in _MUST]
    return f"must be {' or '.join(dict.fromkeys(wanted))}"


def _collection(model: type[BaseModel], location: tuple[Any, ...]) -> str:
    """What the configuration says of the list that a place is or lies in: one part tells little of the whole."""
    annotation, field, below = _innermost(model, location)
    is_list = any(get_origin(part) is tuple for part in (annotation, *get_args(annotation)))
    if field is None or not field.description or not (below or is_list):
        return ""
    return f"; {location[-len(below) - 1]}: {field.description}"


def explain(error: ValidationError, path: Path, model: type[BaseModel]) -> str:
    """The first thing that is wrong with a configuration file, in one line with the remedy."""
    errors = error.errors()
    first = errors[0]
    location = _place(first)
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, location)
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}" if known else "remove it"
        return f"{path}: unknown key {key}; {hint}"
    here = [one for one in errors if _place(one) == location]
    message = _message(here)
    given = first.get("input")
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float, bool)) else ""
    whole = _collection(model, location)
    more = f" [and {len(errors) - len(here)} more]" if len(errors) > len(here) else ""
    return f"{path}: {key + ': ' if key else ''}{message}{shown}{whole}{more}"
