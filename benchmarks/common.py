"""common: what all benchmarks share: errors for the user, options and files of results."""

import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path

MOST_THREADS = 65536  # cbn's own limit


class UserError(Exception):
    """A request that cannot be met; its text is for the user."""


def run_main(main):
    """Run a script's main function, and exit: with status 2 and one line if the request was wrong."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # the reader has left; without this the interpreter would complain when it flushes stdout at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


class Progress:
    """Tells on stderr how long the rest will take, going by the weights of the steps; quietly if there is no reader."""

    def __init__(self, weights):
        self.weights = list(weights)
        self.steps = 0
        self.start = time.monotonic()

    def step(self):
        self.steps += 1
        passed = time.monotonic() - self.start
        left = passed * sum(self.weights[self.steps :]) / sum(self.weights[: self.steps])
        if sys.stderr.isatty():
            text = f"{passed / 60:.1f} min passed, about {left / 60:.1f} min left"
            print(text, end="\r", file=sys.stderr, flush=True)  # the next line of output covers it


def add_json_option(parser):
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the results there, too")


def add_plots_option(parser):
    parser.add_argument("--plots", metavar="DIR", type=Path, help="draw plots there (needs matplotlib)")


def check(options):
    """Refuse numbers below 1, and what cannot be written, before the work and not after it."""
    for name, value in vars(options).items():
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise UserError(f"--{name} must be 1 or more; got {value}")
        if name == "threads" and value > MOST_THREADS:
            raise UserError(f"--threads must be {MOST_THREADS} or fewer; got {value}")
    if options.json and (options.json.is_dir() or not os.access(options.json.parent, os.W_OK)):
        raise UserError(f"--json must be a file that can be written; got {options.json}")
    if getattr(options, "plots", None):
        if importlib.util.find_spec("matplotlib") is None:
            raise UserError("--plots must have matplotlib (pip install '.[bench]'); got no such module")
        try:
            options.plots.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--plots must be a directory; got {options.plots}: {error.strerror}") from None


def _plain(value):
    """What JSON can hold: numbers with 6 digits, null for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def write_json(path, results):
    """Write a dict to a file, if there is to be one: a line for each key, and for each item of a list of dicts."""
    if not path:
        return
    lines = []
    for key, value in _plain(results).items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n" + ",\n".join(" " + json.dumps(item) for item in value) + "\n]"
        else:
            text = json.dumps(value)
        lines.append(f"{json.dumps(key)}: {text}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
