"""loaded: the service on one engine: how fast it starts, what it answers under wrk's load, and what memory it takes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

HERE = Path(__file__).parent
WORKERS = 2
TICKS = os.sysconf("SC_CLK_TCK")  # of a second
START_SECONDS = 120  # after which it has failed


class Workload(NamedTuple):
    """What is posted, over how many connections at once."""

    name: str
    batch: int
    connections: int
    body: Path
    content_type: str
    accept: str


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Loaded:
    """The service while it runs; `cold_start` is from the start of the process to the first prediction, in seconds."""

    def __init__(self, engine: str, model: Path):
        self.port = free_port()
        environment = {**os.environ, "DIGITS_ENGINE": engine, "DIGITS_MODEL": str(model)}
        environment["WEB_CONCURRENCY"] = str(WORKERS)
        command = [sys.executable, "-m", "gunicorn", "--config", str(HERE / "gunicorn.conf.py")]
        command += ["--bind", f"127.0.0.1:{self.port}", "--log-level", "warning"]
        start = time.perf_counter()
        self.process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            while not self.answers():
                if self.process.poll() is not None or time.perf_counter() - start > START_SECONDS:
                    raise RuntimeError(f"the service must start; got none on {engine}")
                time.sleep(0.002)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.cold_start = time.perf_counter() - start

    def __enter__(self) -> Loaded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def answers(self) -> bool:
        """Whether it gives a prediction now."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        try:
            connection.request("POST", "/predict", bytes(64), {"Content-Type": "application/octet-stream"})
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def pids(self) -> list[int]:
        """The master, and the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]

    def own_cpu(self) -> float:
        """CPU seconds of the service and of wrk, so far."""
        times = os.times()
        ticks = sum(sum(map(int, fields(f"/proc/{pid}/stat")[13:15])) for pid in self.pids())
        return ticks / TICKS + times.children_user + times.children_system

    def under(self, workload: Workload, seconds: int) -> dict[str, float]:
        """wrk's figures, and `others`: the share of all CPUs that other programs took meanwhile."""
        command = ["wrk", "-t1", f"-c{workload.connections}", f"-d{seconds}s", "-s", str(HERE / "load.lua")]
        command += [f"http://127.0.0.1:{self.port}/predict", "--"]
        command += [str(workload.body), workload.content_type, workload.accept]
        start, busy, own = time.perf_counter(), busy_cpu(), self.own_cpu()
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10 * seconds + 60)
        others = busy_cpu() - busy - (self.own_cpu() - own)
        figures = json.loads(done.stdout.splitlines()[-1])
        figures["others"] = others / (time.perf_counter() - start) / (os.cpu_count() or 1)
        if figures["errors"] or not figures["requests"]:
            raise RuntimeError(f"all requests must be answered with 200; got {figures}")
        return figures

    def memory(self) -> dict[str, Any]:
        """MB: the proportional and the unique set of a worker, and the proportional set of master and workers."""
        master, *workers = map(rollup, self.pids())
        mean = {name: sum(worker[name] for worker in workers) / len(workers) for name in ("pss", "uss")}
        return {**mean, "service": master["pss"] + sum(worker["pss"] for worker in workers)}


def fields(path: str) -> list[str]:
    """The words of the first line of a file of /proc, in which the name of a program has no spaces here."""
    return Path(path).read_text().partition("\n")[0].split()


def busy_cpu() -> float:
    """CPU seconds that all programs took so far: all but idle and waiting."""
    ticks = list(map(int, fields("/proc/stat")[1:9]))
    return (sum(ticks) - ticks[3] - ticks[4]) / TICKS


def rollup(pid: int) -> dict[str, float]:
    """What the kernel says of a process's memory, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {"pss": kb["Pss"] * 1.024e-3, "uss": (kb["Private_Clean"] + kb["Private_Dirty"]) * 1.024e-3}
