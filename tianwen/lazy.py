"""Public names of a package that are imported on first use, so that importing the package costs nothing.

__getattr__, __dir__ = lazy_names(__name__, {"Tiger": "tianwen.optim.tiger"})
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, home: Mapping[str, str], *, also: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package, from each name to the module that has it.

    `also` are public names that the package has itself. An unknown name is refused with the list of those there are.
    """
    public = sorted([*home, *also])

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"{package} has no {name!r}; its public names are {', '.join(public)}")
        value = getattr(import_module(home[name]), name)
        setattr(sys.modules[package], name, value)  # found once; the next access does not come here
        return value

    return get, lambda: public.copy()
