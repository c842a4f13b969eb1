"""Packages whose names are imported when they are first used, so that a configuration is read without torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, modules: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """A package's ``__getattr__``: ``modules`` gives the names that each of its modules defines.

    >>> from boxwood.lazy import lazy_names
    >>> lazy_names("boxwood", {"errors": ("UserError",)})("UserError").__module__
    'boxwood.errors'
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get
