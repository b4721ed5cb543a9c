"""libraries: optional libraries, which are imported where they are used."""

import importlib.util
import sys

__all__ = ["library", "on_demand"]


def library(name, extra):
    """Import a module of an optional library, or say which extra of cbn installs it."""
    if sys.modules.get(name):
        return sys.modules[name]
    package = name.split(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{package} must be installed (pip install 'cbn[{extra}]'); got no such module")
    return importlib.import_module(name)


def on_demand(module, names, package, source):
    """Return a __getattr__ for a module, some of whose names stand in another, which imports a library.

    The other module, `source`, is imported when one of them is asked for. The library's extra has its name.
    """

    def __getattr__(name):
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        library(package, package)
        return getattr(importlib.import_module(source), name)

    return __getattr__
