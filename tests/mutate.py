"""mutate: changes the code in one place at a time, and asks which tests notice.

    python tests/mutate.py kernels --count 200 --out out/kernels.jsonl
    python tests/mutate.py checks --count 100 --out out/checks.jsonl
    python tests/mutate.py python --count 100 --out out/python.jsonl

Needs universalmutator, gcc, and what the tests need; clang-14, if there, compiles faster. Works in a copy of the tree.
Each mutant becomes a line of JSON: `invalid` (does not compile), `same` (compiles to the same), `killed`, or
`survived`; those that the file has already are not tried again. Which ones are taken depends on --seed and on their
text alone, so that changes elsewhere change little. The exit status is 1 if the tests fail on the code as it is, or if
a mutant survives that mutation_survivors.json does not list with the reason.
"""

import argparse
import collections
import contextlib
import functools
import hashlib
import io
import json
import marshal
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import hypothesis.extra.numpy  # noqa: F401  what the tests import is imported here, before the forks
import ml_dtypes  # noqa: F401
import numpy as np
import pytest
from universalmutator import mutator

ROOT = Path(__file__).parents[1]
SURVIVORS = ROOT / "tests/mutation_survivors.json"
TOO_SLOW = (-signal.SIGXCPU, -signal.SIGKILL)
STATUSES = ("invalid", "same", "killed", "survived")
FORK = multiprocessing.get_context("fork")
QUICK = [shutil.which("clang-14") or "gcc", "-O0", "-w", "-fPIC"]
CFLAGS = "-std=c11 -w -fPIC -D_DEFAULT_SOURCE -Icsrc/include -ffp-contract=off -fno-strict-aliasing -Werror=return-type"
C_TESTS = """source tests/c/build.sh && gcc -w -std=c11 -D_DEFAULT_SOURCE -Icsrc/include -O1 -fopenmp tests/c/*.c \\
    $(ls objects/*.o | grep -v _core.o) $wrapped -pthread -lm -o objects/c_tests && objects/c_tests --small"""
NUMERICS = "edges functional moments fused masks mask_edges halves images double_backward numerics bits"
MAIN = (
    "affine_tmpl.h anchors_tmpl.h grad_columns_tmpl.h grad_tmpl.h kernels.h open_grad_tmpl.h outputs_tmpl.h "
    "residual_tmpl.h sums_columns_tmpl.h sums_tmpl.h vectors.h vectors_tmpl.h backward.c forward.c job.c moments.c "
    "plan.c running.c schedule.c threads.c"
)
# by group: files of the code, and tests that should notice, in this order: files of tests, of which one of so many is
# run (of test_edges all, which mutants have brought); or a command. Files that do no arithmetic are not here.
GROUPS = {
    "kernels": {
        "csrc/images.c csrc/planes.h": [("edges images", 4)],
        "csrc/double_backward.c csrc/double_tmpl.h csrc/second_tmpl.h": [("edges double_calls double_backward", 4)],
        "csrc/half.h": [("edges halves", 4)],
        " ".join(f"csrc/{name}" for name in MAIN.split()): [(NUMERICS, 30), (C_TESTS, 0)],
    },
    "checks": {
        "src/cbn/_checks.pxi src/cbn/_parameters.pxi src/cbn/_core.pyx": [
            ("edges validate functional overlaps options_faults", 1)
        ],
        "src/cbn/_numbers.pxi": [("edges validate options functional", 1)],
        "src/cbn/_options.pxi": [("edges fused_validate mask_edges overlaps functional", 1)],
        "src/cbn/_running.pxi": [("edges functional validate options options_faults mask_edges conventions state", 1)],
        "src/cbn/_layer.pxi": [("edges options options_faults overlaps", 1)],
        "src/cbn/_backward.pxi": [("edges validate functional fused_validate overlaps", 1)],
        "src/cbn/_rounding.pxi": [("rounding", 1)],
        "src/cbn/_double.pxi": [("edges double_calls", 1)],
        "src/cbn/_images.pxi": [("edges images", 1)],
    },
    "python": {
        "src/cbn/batches.py src/cbn/ghosts.py src/cbn/renormalization.py src/cbn/training.py src/cbn/options.py": [
            ("edges options options_faults layer population", 1)
        ],
        "src/cbn/checkpoint.py src/cbn/containers.py src/cbn/reading.py": [
            ("edges state moments_files safetensors corpus", 1)
        ],
        "src/cbn/merging.py src/cbn/statistics.py src/cbn/arrays.py": [("edges moments moments_files validate", 1)],
        "src/cbn/missing.py": [("edges features", 1)],
        "src/cbn/state.py": [("edges state layer options drift conventions", 1)],
        "src/cbn/images.py": [("edges images", 1)],
        "src/cbn/files.py": [("edges explain_command", 1)],
    },
}


def mutants(path, seed):
    """(order, file, line, before, after) of every mutant of a file; comments, docstrings and strings stay."""
    text, name, is_c = path.read_text(), str(path.relative_to(ROOT)), path.suffix in (".c", ".h")
    comment = r"/\*.*?\*/" if is_c else r'""".*?"""'
    text = re.sub(comment, lambda found: re.sub(r"[^\n]", "", found[0]), text, flags=re.DOTALL)
    lines = [line.rstrip() + "\n" for line in text.split("\n")]
    rules, names = ["universal.rules", "c_like.rules" if is_c else "python.rules"], [r"^\s*(c?import|from|__all__)\b"]
    with contextlib.redirect_stdout(io.StringIO()):
        found = mutator.mutants_regexp(lines, rules, ignorePatterns=names, ignoreStringOnly=True)
    times = collections.Counter()
    for line, after, _, _ in found:
        if not is_c and after.endswith(("break;\n", "continue;\n")):  # the rule is not for Python
            continue
        change = name, lines[line - 1].strip(), after.strip()
        order = hashlib.sha256(repr((seed, *change, times[change])).encode()).hexdigest()
        times[change] += 1
        yield order, name, line, change[1], after.rstrip("\n")


class Tree:
    """A copy of the tree, and what is built in it: with the baseline alone, quickly. `clean` has the objects."""

    def __init__(self, work):
        self.work = work
        shutil.copytree(ROOT, work, ignore=shutil.ignore_patterns(".*", "build", "out", "*.so"))
        (work / "objects").mkdir()
        dispatch = work / "csrc/dispatch.c"
        dispatch.write_text(dispatch.read_text().replace("#if defined(__x86_64__)", "#if 0"))
        paths = (path.relative_to(work) for path in sorted(work.glob("csrc/*.c")))
        self.sources = [path for path in paths if not path.stem.startswith("isa_avx")]
        self.needs = {path: self.run("gcc", *CFLAGS.split(), "-MM", path).split() for path in self.sources}
        self.clean = dict(self.compile(source) for source in self.sources) | dict([self.cython()])
        self.link()

    def run(self, *command):
        done = subprocess.run(command, cwd=self.work, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return done.stdout.decode()

    def object(self, source, *command):
        target = self.work / "objects" / f"{source.stem}.o"
        self.run(*command, "-c", source, "-o", target)
        return target, target.read_bytes()

    def compile(self, source):
        compiler = QUICK if source.stem.startswith("isa_") else ["gcc", "-O1", "-fopenmp"]
        return self.object(source, *compiler, *CFLAGS.split())

    def cython(self):
        source = self.work / "objects/_core.c"
        self.run(sys.executable, "-m", "cython", "-3", "src/cbn/_core.pyx", "-o", source)
        defines = ["-DPy_LIMITED_API=0x030B0000", "-DNPY_TARGET_VERSION=NPY_1_23_API_VERSION"]
        includes = ["-Icsrc/include", f"-I{np.get_include()}", f"-I{sysconfig.get_path('include')}"]
        return self.object(source, *QUICK, *defines, *includes)

    def link(self):
        library = self.work / "src/cbn/_core.abi3.so"
        library.unlink(missing_ok=True)  # which a process may still have open
        self.run("gcc", "-shared", "-fopenmp", *self.clean, "-lm", "-o", library)

    @contextlib.contextmanager
    def changed(self, name, line, after):
        """Whether anything that is built of the file is another, with its line replaced."""
        path = self.work / name
        text = path.read_text()
        lines = text.split("\n")
        lines[line - 1] = after
        try:
            path.write_text("\n".join(lines))
            if name.endswith(".py"):
                codes = [compile(code, name, "exec", optimize=2) for code in (text, path.read_text())]
                yield len({marshal.dumps(code) for code in codes}) == 2
                return
            built = [self.compile(source) for source in self.sources if name in self.needs[source]] or [self.cython()]
            self.link()
            yield any(content != self.clean[target] for target, content in built)
        finally:
            path.write_text(text)
            for target, content in self.clean.items():
                target.write_bytes(content)
            if not name.endswith(".py"):
                self.link()


def run_tests(work, stage, seconds, order, to):
    """In a process of its own: runs a stage on a tree until a test fails, and sends that one; or times of all."""
    files, share = stage
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    os.chdir(work)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    if not share:
        os.execlp("bash", "bash", "-euc", files)

    class Watch:
        times: ClassVar = {}

        def pytest_collection_modifyitems(self, items):
            if order:
                items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])
            else:
                turns = {item: hashlib.sha256(item.nodeid.encode()).digest()[0] % share for item in items}
                items[:] = [item for item in items if not turns[item] or "test_edges" in item.nodeid]

        def pytest_runtest_logreport(self, report):
            self.times[report.nodeid] = self.times.get(report.nodeid, 0) + report.duration
            if report.failed:
                to.send(report.nodeid)

        def pytest_sessionfinish(self, exitstatus):
            if exitstatus == 0:
                to.send(self.times)

    os.environ["PYTHONPATH"] = f"{work}/src"
    sys.path.insert(0, f"{work}/src")
    options = ["-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    os._exit(pytest.main([*options, *(f"tests/test_{name}.py" for name in files.split())], plugins=[Watch()]))


def killer(tree, stage, seconds=600, order=None):
    """What fails, a test or what becomes of the process, or None; and the times of the tests if none does."""
    reads, writes = FORK.Pipe(duplex=False)
    child = FORK.Process(target=run_tests, args=(tree.work, stage, seconds, order, writes))
    child.start()
    writes.close()
    said = None
    with contextlib.suppress(EOFError):
        said = reads.recv() if reads.poll(5 * seconds) else None
    child.join(5 if said else 5 * seconds)
    with contextlib.suppress(ProcessLookupError):  # what it has started, too
        os.killpg(child.pid, signal.SIGKILL)
    child.join()
    if isinstance(said, dict) or (said is None and child.exitcode == 0):
        return None, said
    return said or ("too slow" if child.exitcode in TOO_SLOW else f"exit status {child.exitcode}"), None


def judge(tree, stages, mutant):
    """The status of a mutant, and what killed it."""
    try:
        with tree.changed(*mutant) as changed:
            if not changed:
                return "same", None
            by = next(filter(None, (killer(tree, *stage)[0] for stage in stages)), None)
            return "killed" if by else "survived", by
    except (subprocess.CalledProcessError, SyntaxError, ValueError):
        return "invalid", None


def measured(tree, stage):
    """The stage, how long it may take, and the order of its tests: those first that are over soon."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    by, times = killer(tree, stage)
    if by:
        sys.exit(f"the code as it is fails: {by}\n{(tree.work / 'log').read_text()}")
    seconds = int(5 * (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before) + 20)
    print(f"the code as it is passes; limit {seconds} s", flush=True)
    return stage, seconds, times and {test: rank for rank, test in enumerate(sorted(times, key=times.get))}


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path and path.is_file() else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--count", type=int, default=20, help="how many mutants that are killed or survive")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(os.devnull))
    parser.add_argument("--only", default="", help="of files whose names contain this")
    parser.add_argument("--again", type=Path, help="only the survivors of this file: the tests are others now")
    arguments = parser.parse_args()
    stages = {ROOT / name: tests for names, tests in GROUPS[arguments.group].items() for name in names.split()}
    paths = [path for path in stages if arguments.only in path.name]
    done = records(arguments.out)
    survivors = [record for record in records(arguments.again) if record["status"] == "survived"]
    chosen = {(one["file"], one["before"], one["after"]) for one in survivors} if arguments.again else None
    tried = {(record["file"], record["line"], record["after"]) for record in done}
    left = arguments.count - sum(record["status"] in ("killed", "survived") for record in done)
    with tempfile.TemporaryDirectory() as work, arguments.out.open("a") as out:
        tree = Tree(Path(work, "tree"))
        ready = functools.cache(lambda stage: measured(tree, stage))
        for _, name, line, before, after in sorted(one for path in paths for one in mutants(path, arguments.seed)):
            if left <= 0:
                break
            if (name, line, after) in tried or (chosen is not None and (name, before, after) not in chosen):
                continue
            start = time.monotonic()
            limits = [ready(stage) for stage in stages[ROOT / name]]
            status, by = judge(tree, limits, (name, line, after))
            left -= status in ("killed", "survived")
            seconds = round(time.monotonic() - start, 1)
            done.append({"file": name, "line": line, "before": before, "after": after, "status": status, "by": by})
            print(json.dumps(done[-1] | {"seconds": seconds}), file=out, flush=True)
            print(f"{left:4} left: {status:8} {name}:{line} {by or after.strip()}", flush=True)
    listed = {(one["file"], one["before"], one["after"]) for one in json.loads(SURVIVORS.read_text())}
    survived = [record for record in done if record["status"] == "survived"]
    new = [one for one in survived if (one["file"], one["before"], one["after"].strip()) not in listed]
    counts = {status: sum(record["status"] == status for record in done) for status in STATUSES}
    print(f"{len(done)} mutants: {counts}; survivors that are not listed: {len(new)}")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
