"""What work is known by: a hash of everything that determines its result, and of nothing else.

A resumed run must never mix two versions of a product; and an edited comment or log line must not throw work away.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import json
import pkgutil
from collections.abc import Mapping
from importlib.abc import InspectLoader
from types import ModuleType
from typing import Any

LOGGERS = frozenset({"log", "logger", "logging", "_log", "_logger", "warnings", "LOG", "LOGGER"})
DIGEST_CHARACTERS = 16


def identity(inputs: Any, parameters: Mapping[str, Any], model_digest: str, code_digest: str) -> str:
    """The key of a piece of work.

    Args:
        inputs: JSON-able; put what has no order (scene ids) in sorted order.
        parameters: JSON-able settings that change the result.
        model_digest: of the weights and their configuration; empty where no model takes part.
        code_digest: from :func:`code_digest`.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps([inputs, parameters, model_digest, code_digest], sort_keys=True, allow_nan=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARACTERS]


def code_digest(*modules: ModuleType | str) -> str:
    """Hash of what modules do, blind to comments, docstrings, formatting, and calls that only log or print.

    Args:
        modules: modules or their names; a package counts with all modules below it.
    """
    sources: dict[str, str] = {}
    for module in modules:
        for name in _expand(importlib.import_module(module) if isinstance(module, str) else module):
            sources[name] = meaning(_source(name))
    digest = hashlib.sha256(json.dumps(sources, sort_keys=True).encode())
    return digest.hexdigest()[:DIGEST_CHARACTERS]


def meaning(source: str) -> str:
    """Source text reduced to what it computes, in one canonical formatting."""
    # Unparsed rather than dumped: the dump of one program differs between Python versions.
    return ast.unparse(_Strip().visit(ast.parse(source)))


class _Strip(ast.NodeTransformer):
    """Takes out statements without effect on results."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return None
        return None if isinstance(value, ast.Call) and _logs(value.func) else node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node


def _logs(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "print"
    return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id in LOGGERS


def _expand(module: ModuleType) -> list[str]:
    names = [module.__name__]
    if hasattr(module, "__path__"):
        names += sorted(info.name for info in pkgutil.walk_packages(module.__path__, f"{module.__name__}."))
    return names


def _source(name: str) -> str:
    """Source text without importing: a module below a package may need an optional dependency."""
    spec = importlib.util.find_spec(name)
    loader = None if spec is None else spec.loader
    text = loader.get_source(name) if isinstance(loader, InspectLoader) else None
    if text is None:
        raise ValueError(f"module {name} has no Python source to take a digest of")
    return text


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be part of an identity; give it as plain JSON values")
