"""effects: the scripts of examples/effects, imported for tests, which are skipped where what they need is missing."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "effects"


def imported(name):
    """A script, or a module that the scripts share."""
    for library in ("sklearn", "matplotlib", "rich"):
        pytest.importorskip(library)
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))
