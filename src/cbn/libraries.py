"""libraries: optional libraries, which are imported where they are used."""

import importlib.util
import sys

__all__ = ["library"]


def library(name, extra):
    """Import a module of an optional library, or say which extra of cbn installs it."""
    if sys.modules.get(name):
        return sys.modules[name]
    package = name.split(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{package} must be installed (pip install 'cbn[{extra}]'); got no such module")
    return importlib.import_module(name)
