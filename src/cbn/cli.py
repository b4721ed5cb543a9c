"""cli: `python -m cbn`: what can be asked for, and how that which is wrong is told, in one line."""

import argparse
import difflib
import os
import re
import sys
from pathlib import Path

from . import __version__, explain_command, fold_command, machine_command, plots
from .files import UserError

__all__ = ["main"]

PROGRAM = "python -m cbn"
STATUS = "exit status: 0, {}2 for a wrong request"
EPILOG = """\
examples:
  {0}                                what was detected, the check, the comparison
  {0} bench --plot speed.png         the comparison alone, with a plot
  {0} check --input x.npy --axis -1  the check of an array of yours
  {0} fold --help                    what a subcommand does, and its options

{1}"""
# what argparse says, and how it is said here
ERRORS = {
    r"argument (.+): invalid int value: (.+)": "{0} must be an integer; got {1}",
    r"argument (.+?): invalid choice: (.+?) \(choose from (.+)\)": "{0} must be one of {2}; got {1}",
    r"argument (.+): expected (?:one|at least one) argument": "{0} must have a value; got none",
    r"argument (.+): ignored explicit argument (.+)": "{0} must have no value; got {1}",
    r"the following arguments are required: (.+)": "{0} must be given; got none",
}


class Parser(argparse.ArgumentParser):
    """Raises UserError; its texts are broken into lines as they stand."""

    def __init__(self, **options):
        super().__init__(**options, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message):
        for pattern, text in ERRORS.items():
            if found := re.fullmatch(pattern, message):
                parts = [part.replace("'", "") for part in found.groups()]  # which not all Pythons write
                raise UserError(text.format(*parts) + _near(*parts[1:]))
        raise UserError(f"arguments must be as `{self.prog} --help` says; got {message}")


def _near(value="", choices=""):
    """The choice that was meant, if it is easy to see."""
    near = difflib.get_close_matches(value, choices.split(", "), 1) if choices else []
    return f"; did you mean {near[0]}?" if near else ""


# --- what can be asked for ---


def parser():
    """The parser of everything."""
    top = Parser(
        prog=PROGRAM,
        description="Batch normalization on CPUs. Without a subcommand: show what was detected, check\n"
        "results against the oracle, and compare the speed with that of others.",
        epilog=EPILOG.format(PROGRAM, STATUS.format(machine_command.STATUS)),
    )
    top.add_argument("--version", action="version", version=f"cbn {__version__}")
    _add_options(top, machine_command, "the comparison")
    commands = top.add_subparsers(dest="command", title="subcommands", metavar="SUBCOMMAND")
    for module in (machine_command, explain_command, fold_command):
        for name, (summary, text, example, drawn, wrong) in module.COMMANDS.items():
            epilog = f"example:\n  {PROGRAM} {name} {example}\n\n{STATUS.format(wrong)}"
            one = commands.add_parser(name, help=summary, description=text, epilog=epilog)
            _add_options(one, module, drawn)
    return top


def _add_options(one, module, drawn):
    module.add_options(one, drawn)
    one.add_argument("--json", metavar="FILE", type=Path, help="write the results there, too")
    if drawn:
        text = f"draw {drawn}, as {', '.join(plots.KINDS)} (needs pip install 'cbn[plot]')"
        one.add_argument("--plot", metavar="FILE", type=Path, help=text)
    one.set_defaults(run=module.run)


def parse(arguments):
    """Return the options of a request that can be met, as far as it can be told without its files."""
    options, unknown = parser().parse_known_args(arguments)
    command = options.command
    if unknown:
        asked = f"{PROGRAM} {command} --help" if command else f"{PROGRAM} --help"
        raise UserError(f"arguments must be those that `{asked}` names; got {' '.join(unknown)}")
    if command and arguments[0] != command:  # whose defaults would take the place of what stands before it
        raise UserError(f"{command} must come first; got {' '.join(arguments)}")
    if getattr(options, "plot", None):
        plots.check_kind(options.plot)
    return options


def main(arguments=None):
    """Run the command line, and return the exit status."""
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        status = options.run(options)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"cbn: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()
        return 141
    except (OSError, MemoryError) as error:
        _drop_output()
        print(f"cbn: {_lacking(error)}", file=sys.stderr)
        return 2


def _lacking(error):
    """What there is too little of, as far as that is known."""
    if isinstance(error, MemoryError):
        return UserError(f"memory must be enough for this; got {str(error) or 'no more'}")
    name = error.filename or "the output, or a file,"  # which error it was is known only of what was opened
    return UserError(f"{name} must be there and have room; got {error.strerror or error}")


def _drop_output():
    """Of a reader that has left, or a full disk: without this the interpreter would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
