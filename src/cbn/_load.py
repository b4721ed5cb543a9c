"""_load: loads the compiled core, and has the OpenMP runtime that comes with it wait briefly instead of spinning long.

GNU's runtime lets a thread that waits for others spin for up to some 20 ms before it sleeps. On a busy machine it then
spins on the very CPU that those others need. It reads its settings from the environment when it is loaded, so a
limit of a thousand turns (20 to 60 microseconds) stands there for just that long. What the user has set counts more,
and a runtime that is already loaded stays as it is.
"""

import os

import numpy  # noqa: F401  # if it is broken it says so here; in the compiled core that would end the process

if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
    from . import _core
else:
    os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        from . import _core
    finally:
        del os.environ["GOMP_SPINCOUNT"]

__all__ = ["_core"]
