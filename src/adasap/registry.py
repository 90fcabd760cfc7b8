"""Names that a user can give, and what stands behind them: one `Registry` for each kind of thing."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from adasap.errors import AdasapError, ArgumentError, RecipeError, suggestion

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for, in the order of registration; open to a user's own.

    An entry is the object itself, or `module:attribute`, which is imported when it is first asked for. Installed
    packages add theirs by an entry point of the group `adasap.plugins`: a module that registers when it is imported.

    Args:
        what: What a name stands for, for messages: `criterion`.
        entries: The first entries.
        at: Where the registry is found, for messages: `adasap.criteria.CRITERIA`.
        filled_by: A module that registers more of them when it is imported; that happens before the first look-up.
        packages: A package whose subpackages do so.
        error: Raised for an unknown name.
    Example:
        >>> shapes = Registry("shape", {"ordered": "collections:OrderedDict"})
        >>> shapes.register("plain", dict)
        >>> shapes.get("ordered").__name__, list(shapes)
        ('OrderedDict', ['ordered', 'plain'])
        >>> shapes.get("plane")
        Traceback (most recent call last):
        adasap.errors.RecipeError: there is no shape 'plane'; did you mean 'plain'?
    """

    def __init__(
        self,
        what: str,
        entries: Mapping[str, T | str] | None = None,
        *,
        at: str = "",
        filled_by: str = "",
        packages: str = "",
        error: type[AdasapError] = RecipeError,
    ) -> None:
        self.what, self.at, self.error = what, at, error
        self._entries: dict[str, T | str] = dict(entries or {})
        self._filled_by, self._packages = filled_by, packages

    def register(self, name: str, entry: T | str) -> None:
        """Makes an object known by name.

        Raises:
            ArgumentError: If the name stands for something else already.
        """
        if self._entries.get(name, entry) != entry:
            raise ArgumentError(f"there is a {self.what} {name!r} already; choose another name")
        self._entries[name] = entry

    def get(self, name: str) -> T:
        """The object of that name.

        Raises:
            AdasapError: Of the registry's kind, if there is none; names the nearest, and how one's own is registered.
        """
        if name not in self:
            own = f" (one of your own: {self.at}.register(name, ...))" if self.at else ""
            raise self.error(f"there is no {self.what} {name!r:.80}; {suggestion(name, sorted(self))}{own}")
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = cast(T, getattr(importlib.import_module(module), attribute))
        return entry

    def __getitem__(self, name: str) -> T:
        return self.get(name)

    def __contains__(self, name: object) -> bool:
        if isinstance(name, str) and name not in self._entries:
            self._fill()
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(list(self._entries))

    def __len__(self) -> int:
        self._fill()
        return len(self._entries)

    def _fill(self) -> None:
        """Imports what registers more, once."""
        module, package = self._filled_by, self._packages
        self._filled_by = self._packages = ""
        if module:
            importlib.import_module(module)
        if package:
            home = importlib.import_module(package)
            for found in pkgutil.iter_modules(home.__path__):
                if found.ispkg:
                    importlib.import_module(f"{package}.{found.name}")
        _load_plugins()


@cache
def _load_plugins() -> None:
    """Imports what installed packages name under `adasap.plugins`, once."""
    for plugin in entry_points(group="adasap.plugins"):
        try:
            plugin.load()
        except Exception as error:
            raise AdasapError(
                f"the plugin {plugin.name!r} of {plugin.dist.name if plugin.dist else 'a package'} cannot be imported: "
                f"{type(error).__name__}: {error}; correct it, or uninstall that package"
            ) from error


def build(
    factory: Callable[..., T], options: Mapping[str, Any], *, place: str, error: type[AdasapError] = RecipeError
) -> T:
    """An object from the options of a recipe: `factory(**options)`, unknown keys refused.

    Args:
        factory: A dataclass, whose fields are the options.
        options: Option -> value.
        place: Begins the name of an option in messages.
        error: Raised for an unknown option.
    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Square:
        ...     side: float = 1.0
        >>> build(Square, {"sides": 2}, place="shape.")
        Traceback (most recent call last):
        adasap.errors.RecipeError: unknown key 'shape.sides'; did you mean 'side'?
    """
    if not isinstance(options, Mapping):
        raise error(f"{place.rstrip('.')} is {options!r:.80}; give options and their values")
    known = [field.name for field in fields(factory) if field.init]  # type: ignore[arg-type]  # a class is callable
    for key in options:
        if key not in known:
            raise error(f"unknown key {f'{place}{key}'!r:.200}; {suggestion(key, known)}")
    return factory(**options)


def options_of(built: object) -> dict[str, Any]:
    """Option -> value of what `build` gave, defaults included."""
    return {field.name: getattr(built, field.name) for field in fields(built) if field.init}  # type: ignore[arg-type]
