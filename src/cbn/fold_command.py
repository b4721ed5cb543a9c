"""fold_command: `python -m cbn fold`: an ONNX model without the batch norms that can be folded, verified."""

import argparse
import json
import math
import os
import re
import tempfile
from pathlib import Path

from .files import UserError, check_target, read_array, read_arrays
from .interop.fold_onnx import fold
from .interop.onnx_edit import cause, loaded
from .interop.verify_onnx import Agreement, Original
from .libraries import library

__all__ = ["run"]


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m cbn fold",
        description="Fold the BatchNormalization of an ONNX model into the operations beside it, and verify the result "
        "with ONNX Runtime.",
        epilog="Exit status: 0, also if nothing could be folded; 1 if the result differs, which is then not written; "
        "2 for a wrong request.",
    )
    parser.add_argument("model", type=Path, metavar="model.onnx", help="is not changed, unless out.onnx is the same")
    parser.add_argument("target", type=Path, metavar="out.onnx", help="the folded model")
    parser.add_argument(
        "--sample",
        type=Path,
        metavar="FILE.npz",
        help="verify with these inputs by name, or one in FILE.npy, instead of random ones",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the answer there, too")
    return parser.parse_args(arguments)


def run(arguments):
    """Fold, verify, write and print; return the exit status: 1 if the folded model differs."""
    options = _parse(arguments)
    check_target("out.onnx", options.target)
    check_target("--json", options.json)
    if options.target.exists() and not options.target.is_file():
        raise UserError(f"out.onnx must be an ordinary file; got {options.target}")
    sample = None if options.sample is None else _read_sample(options.sample)
    try:
        for name in ("onnx", "onnx_ir", "onnxruntime"):
            library(name, "onnx")
        _check_readable(options.model)
        original = Original(options.model, sample)  # which refuses a broken graph
        model = loaded(options.model)
        data = f"{options.target.name}.data" if _is_external(model) else None
        found = fold(model)
        result = _write(found.model, data, options, original)
    except (ImportError, TypeError, ValueError) as error:
        of_inputs = sample is None and re.search("these inputs|at random", str(error))
        raise UserError(f"{error}{'; --sample may give others' if of_inputs else ''}") from None
    except OSError as error:
        raise UserError(f"out.onnx must be a file that can be written; got {options.target}: {error}") from None
    ok = isinstance(result, Agreement) and result.ok
    _print(found, result, ok, options)
    if options.json:
        options.json.write_text(json.dumps(_answer(found, result, ok), indent=1) + "\n")
    return 0 if ok else 1


# --- files ---


def _read_sample(path):
    return read_array(path, "--sample") if path.suffix == ".npy" else read_arrays(path, "--sample")


def _check_readable(path):
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"model.onnx must be a file that can be read; got {path}: {error.strerror}") from None


def _is_external(model):
    kind = library("onnx_ir", "onnx").ExternalTensor
    return any(isinstance(v.const_value, kind) for graph in model.graphs() for v in graph.initializers.values())


def _write(model, data, options, original):
    """Write the model beside its target, verify it, and move it there if it agrees; return an Agreement, or why not.

    `data` names the file for its weights, None to keep them with it.
    """
    ir, target = library("onnx_ir", "onnx"), options.target.resolve()
    with tempfile.TemporaryDirectory(prefix=".cbn-fold-", dir=target.parent) as folder:
        new = Path(folder) / target.name
        try:
            ir.save(model, new, format="protobuf", external_data=data)
        except ir.serde.SerdeError as error:
            raise UserError(f"model.onnx must be an ONNX model; got {options.model}: {cause(error)}") from None
        try:
            agreement = original.compare(new)
        except RuntimeError as error:
            return str(error)
        if agreement.ok:
            if data and (Path(folder) / data).exists():
                os.replace(Path(folder) / data, target.parent / data)  # before the model that needs it
            os.replace(new, target)
        return agreement


# --- the answer ---


def _print(found, result, ok, options):
    for norm, into, how in found.folded:
        print(f"folded: {norm} into {into} ({how})")
    for norm, reason in found.left:
        print(f"left:   {norm}: {reason}")
    total = len(found.folded) + len(found.left)
    count = f"{len(found.folded)} of {total} folded" if total else "nothing to fold: there is no BatchNormalization"
    print(f"{count}; {result} ({'random input' if options.sample is None else options.sample.name})")
    if not ok:
        bound = f"the bound is {result.bound:g}; " if isinstance(result, Agreement) else ""
        print(f"FAILED: {bound}{options.target} was not written")


def _answer(found, result, ok):
    """What JSON can hold: an infinite error becomes null."""
    answer = {"folded": [entry._asdict() for entry in found.folded], "left": [entry._asdict() for entry in found.left]}
    if not isinstance(result, Agreement):
        answer["failure"] = result
    else:
        answer |= result._asdict() | {"error": result.error if math.isfinite(result.error) else None}
    return answer | {"ok": ok}
