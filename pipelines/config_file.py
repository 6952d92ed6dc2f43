"""A configuration file as a tree of plain values: YAML read strictly, values overridden, variables filled in."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pipelines.config_errors import ConfigError

_VARIABLE = re.compile(r"\$\{(\w+)\}")


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key stands once: of two, the plain loader would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, Hashable) and lines.setdefault(key, line) != line:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice, in lines {lines[key]} and {line}; remove one", None
                )
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_StrictLoader)


def read_tree(path: Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """The file's tree, ``overrides`` (``dotted.key=value``) applied, ``${...}`` filled in, ``root`` absolute.

    Raises:
        ConfigError: one line that names the file, or the override, and what to do.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give a configuration file, as those in configs/")
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file; the named ones are in configs/")
    try:
        tree = _parse(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give read permission") from error
    if tree is None:
        raise ConfigError(f"{path}: the file is empty; start from one of configs/")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the top level must be a mapping of sections")
    for assignment in overrides:
        override(tree, assignment)
    try:
        known = dict(os.environ) | {"root": ""}
        if isinstance(tree.get("root"), str):
            root = expand(tree["root"], "root", known)
            if not root.strip():
                raise ConfigError("root: is empty; set it to a folder, s3://bucket/prefix or gs://bucket/prefix")
            # Workers have working directories of their own.
            known["root"] = tree["root"] = root if "://" in root else str(Path(root).expanduser().resolve())
        expanded: dict[str, Any] = expand(tree, "", known)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return expanded


def expand(value: Any, where: str, known: dict[str, str]) -> Any:
    """A tree with every ``${NAME}`` filled in; ``where`` is its dotted key.

    Raises:
        ConfigError: a name that is not known.
    """
    if isinstance(value, dict):
        return {key: expand(item, f"{where}.{key}" if where else str(key), known) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, f"{where}.{index}", known) for index, item in enumerate(value)]
    if isinstance(value, str):
        for name in _VARIABLE.findall(value):
            if name not in known:
                raise ConfigError(f"{where}: environment variable {name} is not set; export {name}=... first")
        return _VARIABLE.sub(lambda match: known[match[1]], value)
    return value


def override(tree: dict[str, Any], assignment: str) -> None:
    """Replace one value in place; a step of the key is a section's key or the position in a list, from 0.

    Raises:
        ConfigError: for what is no ``dotted.key=value``, a step into a plain value or beyond a list, a value not YAML.
    """
    dotted, equals, text = assignment.partition("=")
    steps = dotted.split(".")
    if not equals or not all(steps):
        raise ConfigError(f"--set {assignment}: write dotted.key=value")
    try:
        value = _parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {dotted}: {text!r} is not YAML ({_one_line(error)})") from error
    node: Any = tree
    for depth, step in enumerate(steps):
        last, here = depth == len(steps) - 1, ".".join(steps[:depth])
        key: Any = step
        if isinstance(node, list):
            if not (step.isdecimal() and int(step) < len(node)):
                raise ConfigError(f"--set {dotted}: {here} has positions 0 to {len(node) - 1}, not {step!r}")
            key = int(step)
        elif not isinstance(node, dict):
            raise ConfigError(f"--set {dotted}: {here} is not a section (it is {node!r})")
        elif not last and node.get(key) is None:
            node[key] = {}
        if last:
            node[key] = value
        node = node[key]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
