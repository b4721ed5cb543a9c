"""explain_command: `python -m cbn explain`: which convention made y and the running statistics of some files."""

from dataclasses import asdict
from pathlib import Path

from . import plots
from .console import say
from .conventions import NAMES
from .distances import distances
from .explanation import explain
from .files import UserError, check_reports, read_array, read_arrays, write_json

__all__ = ["COMMANDS", "add_options", "run"]

COMMANDS = {
    "explain": (
        "which convention made the y of another system",
        "Find out under which convention another system computed y and its running\n"
        "statistics from x: which variance, eps and momentum, and whether the statistics\n"
        "of the batch or the running ones normalized it.",
        "x.npy y.npy state.npz --before before.npz --plot why.png",
        "how far each convention is from what was given",
        "1 if nothing fits, ",
    )
}
STYLES = {"fits": "green", "differs": "yellow", "note": "dim"}  # of lines, by their first words


STYLES = {"fits": "green", "differs": "yellow", "note": "dim"}  # of lines, by their first words


def add_options(parser, _):
    parser.add_argument("x", type=Path, metavar="x.npy", help="one batch, as the other system got it")
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="y.npy|state.npz",
        help="what it made of it: either or both (.safetensors will do, too)",
    )
    parser.add_argument("--before", type=Path, metavar="FILE.npz", help="its arrays before that call, or .safetensors")
    parser.add_argument("--axis", type=int, default=1, help="the channel axis (default: 1)")
    text = f"what differences are counted from: {', '.join(NAMES)} (default: torch)"
    parser.add_argument("--assumed", metavar="NAME", choices=NAMES, default="torch", help=text)


def run(options):
    """Print the answer, and return the exit status: 1 if nothing fits."""
    read = [options.x, options.before, *options.files]
    check_reports(options, read)
    given = {}
    for path in options.files:
        name = {".npy": "y", ".npz": "state", ".safetensors": "state"}.get(path.suffix)
        if name is None or name in given:
            raise UserError(f"after x.npy there must be y.npy, state.npz or one of each; got {path}")
        given[name] = read_array(path, "y.npy") if name == "y" else read_arrays(path, "state.npz")
    if options.before:
        given["before"] = read_arrays(options.before, "--before")
    x = read_array(options.x, "x.npy")
    try:
        found = explain(x, **given, axis=options.axis, assumed=options.assumed)
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from None
    for line in str(found).splitlines():
        say(line, STYLES.get(line.partition(":")[0].partition(",")[0]))
    if options.json:
        write_json(options.json, asdict(found))
    if options.plot:
        plots.save(plots.of_distances(distances(found, x, **given, axis=options.axis)), options.plot)
    return 0 if found.conventions else 1
