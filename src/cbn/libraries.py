"""libraries: optional libraries, which are imported where they are used."""

import importlib.util
import sys

__all__ = ["library", "on_demand"]


def library(name, extra):
    """Import a module of an optional library, or say which extra of cbn installs it."""
    package = name.split(".")[0]
    if not sys.modules.get(name) and importlib.util.find_spec(package) is None:
        raise ImportError(f"{package} must be installed (pip install 'cbn[{extra}]'); got no such module")
    return importlib.import_module(name)  # which waits for another thread that is just importing it


def on_demand(module, sources, package):
    """Return a __getattr__ for a module, some of whose names stand in others, which import a library.

    `sources` says in which; they are imported when such a name is asked for. The library's extra has its name.
    """

    def __getattr__(name):
        if name not in sources:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        library(package, package)
        return getattr(importlib.import_module(sources[name]), name)

    return __getattr__
