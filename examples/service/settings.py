"""settings: what the environment says of the service, checked."""

from __future__ import annotations

import math
import os
from pathlib import Path


def wrong(name: str, rule: str, got: object) -> SystemExit:
    """What ends the start, in the one form that all errors have."""
    return SystemExit(f"{name} must {rule}; got {got}")


def positive(name: str, default: str) -> float:
    text = os.environ.get(name, default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise wrong(name, "be a number above 0", repr(text))
    return value


MODEL_FILE = Path(os.environ.get("DIGITS_MODEL", Path(__file__).with_name("model.npz")))
ENGINE = os.environ.get("DIGITS_ENGINE", "cbn")
SECONDS = positive("DIGITS_SECONDS", "10")  # for headers, for a body, and for a client to read its answer
