"""fold_command: `python -m cbn fold`: an ONNX model without the batch norms that can be folded, verified."""

import itertools
import os
import re
import signal
import sys
import tempfile
import threading
from pathlib import Path

from . import plots, reading
from .console import Progress, is_terminal, print_table, say
from .files import UserError, check_reports, check_target, read_array, read_arrays, write_json
from .interop.fold_onnx import fold
from .interop.onnx_edit import loaded, save
from .interop.onnx_nodes import cause
from .interop.run_onnx import external
from .interop.verify_onnx import Agreement, Original
from .libraries import library

__all__ = ["COMMANDS", "add_options", "run"]

COMMANDS = {
    "fold": (
        "an ONNX model without its batch norms",
        "Fold the BatchNormalization of an ONNX model into the operations beside it, and\n"
        "verify the result with ONNX Runtime (needs pip install 'cbn[onnx]').",
        "model.onnx out.onnx --plot differences.png",
        "the differences of the two models and their bounds",
        "also if nothing could be folded, 1 if the result differs\nor could not be verified, and is not written, ",
    )
}


def add_options(parser, _):
    parser.add_argument("model", type=Path, metavar="model.onnx", help="is not changed, unless out.onnx is the same")
    parser.add_argument("target", type=Path, metavar="out.onnx", help="the folded model")
    parser.add_argument(
        "--sample",
        type=Path,
        metavar="FILE.npz",
        help="verify with these inputs by name, or one in FILE.npy (default: random inputs)",
    )


def run(options):
    """Fold, verify, write and print; return the exit status: 1 if the folded model differs."""
    if threading.current_thread() is not threading.main_thread():
        return _run(options)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which removes what was written for a while
    try:
        return _run(options)
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(options):
    check_target("out.onnx", options.target, [options.sample])
    check_reports(options, [options.model, options.target, _beside(options), options.sample])
    if options.target.exists() and not options.target.is_file():
        raise UserError(f"out.onnx must be an ordinary file; got {options.target}")
    sample = None if options.sample is None else _read_sample(options.sample)
    try:
        with Progress("fold:", 4, lines=False) as progress:
            progress("reading")
            for name in ("onnx", "onnx_ir", "onnxruntime"):
                library(name, "onnx")
            model, weights = _read_model(options)
            progress("running the original")
            original = Original(model, sample)  # which refuses a broken graph
            progress("folding")
            found = fold(model)
            progress("comparing")
            result, kept = _write(found, weights, options, original)
    except (ImportError, TypeError, ValueError) as error:
        of_inputs = sample is None and re.search("these inputs|at random", str(error))
        raise UserError(f"{error}{'; --sample may give others' if of_inputs else ''}") from None
    ok = isinstance(result, Agreement) and result.ok
    _print(found, result, ok, options)
    if ok and kept:
        say(f"kept:   {', '.join(kept)}, which the model no longer uses")
    if options.json:
        write_json(options.json, _answer(found, result, ok))
    if options.plot:
        _draw(result, options.plot)
    return 0 if ok else 1


# --- files ---


def _read_sample(path):
    return read_array(path, "--sample") if path.suffix == ".npy" else read_arrays(path, "--sample")


def _beside(options):
    """The file for the weights of out.onnx, if those of the model are in a file of their own."""
    target = options.target.resolve()
    return target.with_name(f"{target.name}.data")


def _in_place(options):
    return options.target.exists() and options.target.samefile(options.model)


def _read_model(options):
    """Return the model, and the files that hold weights of it, which can be read, and are not to be written over."""
    try:
        reading.opened(options.model, "model.onnx").close()
    except OSError as error:
        raise UserError(f"model.onnx must be a file that can be read; got {options.model}: {error.strerror}") from None
    model = loaded(options.model)
    files = external(model)
    try:
        for tensor in files.values():
            tensor.numpy()
    except (OSError, ValueError) as error:
        raise UserError(f"model.onnx must have weights that can be read; got {cause(error)}") from None
    check_target("out.onnx", options.target, files)
    check_reports(options, files)
    if files and _beside(options).exists() and not _in_place(options):
        raise UserError(f"{_beside(options).name} must not exist yet, for the weights go there; got one that does")
    return model, files


def _write(found, weights, options, original):
    """Write the model beside its target, verify it, and move it there if it agrees, unless it is there already.

    `weights` are the files of the original. Return an Agreement, or why there is none, and the names of files that
    are left over.
    """
    target = options.target.resolve()
    data = _new_name(_beside(options).name, target.parent) if weights else None
    kept = [path.name for path in weights] if _in_place(options) and found.folded else []
    try:
        with tempfile.TemporaryDirectory(prefix=".cbn-fold-", dir=target.parent) as folder:
            new = Path(folder) / target.name
            _save(found.model, new, data, options)
            try:
                agreement = original.compare(new)
            except RuntimeError as error:
                return str(error), []
            if agreement.ok and (found.folded or not _in_place(options)):
                if data and (Path(folder) / data).exists():
                    os.rename(Path(folder) / data, target.parent / data)  # before the model that needs it
                os.replace(new, target)
            return agreement, kept
    except OSError as error:
        raise UserError(f"out.onnx must be a file that can be written; got {options.target}: {error}") from None


def _new_name(name, folder):
    """A name that no file has: the weights that the model has now are needed until the new ones are there."""
    stem, _, suffix = name.rpartition(".")
    names = itertools.chain([name], (f"{stem}.{k}.{suffix}" for k in itertools.count(1)))
    return next(name for name in names if not (folder / name).exists())


def _save(model, path, data, options):
    try:
        save(model, path, data)
    except RuntimeError as error:  # of onnx_ir
        raise UserError(f"model.onnx must be an ONNX model; got {options.model}: {cause(error)}") from None


# --- the answer ---


def _print(found, result, ok, options):
    _print_norms(found)
    agreement = result if isinstance(result, Agreement) else None
    for note in agreement.notes if agreement else ():
        say(f"note:   {note}")
    total = len(found.folded) + len(found.left)
    count = f"{len(found.folded)} of {total} folded" if total else "nothing to fold: there is no BatchNormalization"
    say(f"{count}; {result} ({'random input' if options.sample is None else options.sample.name})")
    if not ok:
        bound = f"the bound is {agreement.bound:g}; " if agreement and agreement.output else ""
        say(f"FAILED: {bound}{options.target} was not written", "bold red")


def _print_norms(found):
    if is_terminal(sys.stdout) and (found.folded or found.left):
        rows = [["folded", norm, f"{into} ({how})"] for norm, into, how in found.folded]
        rows += [["left", norm, reason] for norm, reason in found.left]
        print_table(["result", "norm", "into what, or why not"], rows, left=3)
        return
    for norm, into, how in found.folded:
        say(f"folded: {norm} into {into} ({how})")
    for norm, reason in found.left:
        say(f"left:   {norm}: {reason}")


def _draw(result, path):
    if isinstance(result, Agreement) and result.each:
        plots.save(plots.of_agreement(result), path)
    else:
        say(f"note:   nothing was compared, so that there is nothing to draw: {path} was not written")


def _answer(found, result, ok):
    answer = {"folded": [entry._asdict() for entry in found.folded], "left": [entry._asdict() for entry in found.left]}
    fields = {"failure": result}
    if isinstance(result, Agreement):
        each = [{name: getattr(one, name) for name in ("output", "error", "bound", "counted")} for one in result.each]
        fields = result._asdict() | {"each": each}
    return answer | fields | {"ok": ok}
