"""load: the service on each engine under the load of wrk, in turn and several times; medians as JSON and as a table.

    python load.py --out results
    python load.py --readme  # afterwards: puts the table of results/load.json into the README

Needs wrk on the PATH, torch, onnxruntime and onnx. Each engine gets one thread in each worker. The engines take turns
of seconds, in an order that changes, and medians are of the calmer half of the turns, so that what else the machine
does falls on all of them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("CBN_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import engines
import network
import numpy as np
from loaded import HERE, WORKERS, Loaded, Workload

import cbn

BATCHES = (1, 64)
PACKAGES = ("numpy", "torch", "onnxruntime", "gunicorn", "uvicorn", "starlette", "pydantic")


def workloads(folder: Path) -> list[Workload]:
    """JSON and raw arrays, single images and batches; and one client alone, whose latency is no queue's."""
    made = []
    for batch in BATCHES:
        images = np.random.default_rng(batch).integers(0, 256, (batch, 8, 8), np.uint8)
        text, raw = folder / f"{batch}.json", folder / f"{batch}.raw"
        text.write_text(json.dumps({"images": images.tolist()}))
        raw.write_bytes(images.tobytes())
        if batch == 1:
            made.append(Workload("JSON, one client", 1, 1, text, "application/json", "application/json"))
        made.append(Workload("JSON", batch, 8, text, "application/json", "application/json"))
        made.append(Workload("raw", batch, 8, raw, "application/octet-stream", "application/x-npy"))
    return made


def alone(model: Path, calls: int) -> dict[str, dict[str, float]]:
    """Microseconds of the network without the service, the engines in turn."""
    predict = {name: engine(network.load(model)) for name, engine in engines.ENGINES.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in predict}
    for batch in BATCHES:
        images = np.random.default_rng(batch).integers(0, 256, (batch, 8, 8), np.uint8)
        times: dict[str, list[float]] = {name: [] for name in predict}
        for _ in range(calls):
            for name, call in predict.items():
                start = time.perf_counter()
                call(images)
                times[name].append(time.perf_counter() - start)
        for name, seconds in times.items():
            found[name][str(batch)] = statistics.median(seconds) * 1e6
    return found


def started(model: Path, rounds: int, loads: list[Workload]) -> list[dict[str, Any]]:
    """How each engine starts, and what memory it takes after some work; each alone, since services share libraries."""
    records = []
    for k in range(rounds):
        for name in in_turn(k):
            print(f"starts, {k + 1} of {rounds}: {name}", flush=True)
            with Loaded(name, model) as service:
                for load in loads:
                    service.under(load, 1)
                records.append({"engine": name, "cold_start": service.cold_start, "memory": service.memory()})
    return records


def loaded(model: Path, rounds: int, seconds: int, loads: list[Workload]) -> list[dict[str, Any]]:
    """What each engine does under each load; all services wait while one works, so that the turns are short."""
    records = []
    with contextlib.ExitStack() as stack:
        services = {name: stack.enter_context(Loaded(name, model)) for name in engines.ENGINES}
        for k in range(rounds):
            print(f"loads, {k + 1} of {rounds}", flush=True)
            for load in loads:
                for name in in_turn(k):
                    figures = services[name].under(load, seconds)
                    records.append({"engine": name, "load": f"{load.name}, batch {load.batch}", **figures})
    return records


def in_turn(k: int) -> list[str]:
    """The engines in an order that changes."""
    names = list(engines.ENGINES)
    return names[k % len(names) :] + names[: k % len(names)]


def calmer_half(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the records in which other programs took the least of the CPUs."""
    return sorted(records, key=lambda record: record["others"])[: (len(records) + 1) // 2]


def table(answer: dict[str, Any]) -> str:
    """Medians as Markdown, the engines beside each other."""
    names = list(engines.ENGINES)

    def row(label: str, form: str, values: dict[str, list[float]]) -> str:
        return f"| {label} | " + " | ".join(form.format(statistics.median(values[name])) for name in names) + " |"

    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    others: dict[str, list[float]] = {name: [] for name in names}
    for load in dict.fromkeys(record["load"] for record in answer["loads"]):
        of_load = {n: [r for r in answer["loads"] if (r["engine"], r["load"]) == (n, load)] for n in names}
        calm = {name: calmer_half(records) for name, records in of_load.items()}
        for name in names:
            others[name] += [record["others"] for record in calm[name]]
        for label, form, key in [
            (f"{load}: requests per second", "{:,.0f}", "per_second"),
            ("p50, ms", "{:.2f}", "p50_ms"),
            ("p99, ms", "{:.2f}", "p99_ms"),
        ]:
            lines.append(row(label, form, {name: [r[key] for r in calm[name]] for name in names}))
    lines.append(row("CPUs that other programs took meanwhile", "{:.0%}", others))
    starts = {name: [record for record in answer["starts"] if record["engine"] == name] for name in names}
    lines.append(row("cold start, s", "{:.2f}", {name: [r["cold_start"] for r in starts[name]] for name in names}))
    for label, key in [
        ("memory of a worker, shared pages in proportion, MB", "pss"),
        ("memory of a worker, its own pages, MB", "uss"),
        ("memory of the service, MB", "service"),
    ]:
        lines.append(row(label, "{:.0f}", {name: [r["memory"][key] for r in starts[name]] for name in names}))
    for batch in BATCHES:
        alone_us = {name: [answer["network_us"][name][str(batch)]] for name in names}
        lines.append(row(f"the network alone, batch {batch}, µs", "{:.0f}", alone_us))
    return "\n".join(lines) + "\n"


def as_text(answer: dict[str, Any]) -> str:
    """JSON with a line for each record."""

    def lines(value: Any) -> str:
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]" if isinstance(value, list) else json.dumps(value)

    return "{\n" + ",\n".join(f"{json.dumps(key)}: {lines(value)}" for key, value in answer.items()) + "\n}\n"


def into_readme() -> None:
    """Put the table of the measurements that lie beside the README in the place of the one that it has."""
    readme = HERE / "README.md"
    text = readme.read_text()
    start = text.index("| | " + " | ".join(engines.ENGINES) + " |")
    new = table(json.loads((HERE / "results" / "load.json").read_text()))
    readme.write_text(text[:start] + new + text[text.index("\n\n", start) + 1 :])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=HERE / "model.npz", help="default %(default)s")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder for load.json and load.md")
    what.add_argument("--readme", action="store_true", help="put the table of results/load.json into the README")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    args = parser.parse_args()
    if args.readme:
        into_readme()
        return 0
    if not shutil.which("wrk"):
        parser.error("wrk must be on the PATH; got none (Debian has a package)")
    if not args.model.exists():
        parser.error(f"--model must be a file, which train.py writes; got {args.model}")
    rounds, seconds, calls = (1, 1, 100) if args.quick else (10, 2, 3000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = shutil.copy(args.model, folder)
        Path(model).with_suffix(".onnx").write_bytes(engines.onnx_model(network.load(model)).SerializeToString())
        loads = workloads(folder)
        starts = started(Path(model), min(rounds, 3), loads)
        answer: dict[str, Any] = {"starts": starts, "loads": loaded(Path(model), rounds, seconds, loads)}
        answer |= {"network_us": alone(Path(model), calls)}
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    answer |= {"setting": {**cbn.runtime.config(), **versions, "workers": WORKERS, "seconds": seconds}}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "load.json").write_text(as_text(answer))
    (args.out / "load.md").write_text(table(answer))
    print(table(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
