"""test_array_service: gunicorn with --preload, several workers and real requests to examples/array_service.py."""

import http.client
import importlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import cbn

EXAMPLES = Path(__file__).parents[1] / "examples"
LONGER = int(os.environ.get("CBN_TEST_LONGER", "1"))  # factor of the requests, for .ci/full
HANG = 60  # seconds
# examples/array_service.py, whose first call is parallel, in gunicorn's master
MASTER = """
import os, numpy
from cbn import runtime
before = len(os.listdir("/proc/self/task"))
from array_service import app
print("threads", before, len(os.listdir("/proc/self/task")), "OpenMP", runtime.config()["openmp"], flush=True)
"""


class Server:
    """gunicorn on a free port of 127.0.0.1."""

    def __init__(self, folder, *options):
        (folder / "master.py").write_text(MASTER)
        layer = cbn.BatchNorm(16)
        layer(np.random.default_rng(1).standard_normal((64, 16), np.float32) * 3 + 2)
        layer.save(folder / "layer.npz")
        self.layer, self.log = layer.eval(), folder / "log"
        self.environment = {**os.environ, "CBN_LAYER": str(folder / "layer.npz"), "CBN_NUM_THREADS": "2"}
        self.environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(EXAMPLES)])
        self.command = [sys.executable, "-m", "gunicorn", "--preload", "--bind", "127.0.0.1:0", "--timeout", str(HANG)]
        self.command += ["--graceful-timeout", str(HANG), *options, "master:app"]

    def __enter__(self):
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self.port = self.listening()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def listening(self):
        """Its port, once it has one."""
        due = time.monotonic() + HANG
        while not (found := re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < due, self.log.read_text()
            time.sleep(0.05)
        return int(found[1])

    def end(self):
        """Ask it to finish; return its exit status and what it has logged."""
        self.process.terminate()
        return self.process.wait(2 * HANG), self.log.read_text()

    def post(self, body):
        """Status, worker and body of the answer to one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2 * HANG)
        try:
            connection.request("POST", "/", body)
            answer = connection.getresponse()
            return answer.status, answer.getheader("X-Worker"), answer.read()
        finally:
            connection.close()


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def load(server, clients, requests):
    """All requests, by several clients at the same time; return the workers that answered, and what was wrong."""
    arrays = [np.random.default_rng(i).random((n, 16, 32, 32), np.float32) for i, n in enumerate((1, 8, 20))]
    pairs = [(saved(x), saved(server.layer(x))) for x in arrays]  # one serial, two in parallel
    workers, wrong = set(), []

    def ask(client):
        for i in range(requests // clients):
            if wrong:  # each further one could wait as long
                return
            body, expected = pairs[(client + i) % len(pairs)]
            try:
                status, worker, answer = server.post(body)
            except OSError as error:
                wrong.append(repr(error))
                continue
            workers.add(worker)
            if (status, answer) != (200, expected):
                wrong.append((status, answer[:200]))

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return workers, wrong


@pytest.mark.parametrize(
    ("least_workers", "options"),
    [
        (3, ["--workers", "3"]),
        (2, ["--workers", "2", "--worker-class", "gthread", "--threads", "4"]),
        (4, ["--workers", "2", "--max-requests", "40"]),  # workers end and are forked anew all the time
    ],
    ids=["sync", "gthread", "renewed"],
)
def test_preload_under_load(tmp_path, least_workers, options):
    with Server(tmp_path, *options) as server:
        workers, wrong = load(server, clients=8, requests=400 * LONGER)
        status, log = server.end()
    assert not wrong, log
    assert len(workers) >= least_workers
    assert status == 0 and "Shutting down: Master" in log
    assert not re.search(r"WORKER TIMEOUT|SIGKILL|Traceback|\[(ERROR|CRITICAL)\]", log), log
    before, after, openmp = map(int, re.search(r"threads (\d+) (\d+) OpenMP (\d+)", log).groups())
    assert after > before or not openmp, "there must have been a parallel region before the fork"


def test_what_is_no_array_is_refused(tmp_path):
    with Server(tmp_path, "--workers", "1") as server:
        pickled = io.BytesIO()
        np.save(pickled, np.array([{}], object), allow_pickle=True)
        absurd = io.BytesIO()
        np.lib.format.write_array_header_1_0(absurd, {"descr": "<f4", "fortran_order": False, "shape": (10**15,)})
        archive = io.BytesIO()
        np.savez(archive, np.zeros((2, 16), np.float32))
        for body, text in [
            (absurd.getvalue(), ""),
            (b"", "magic string"),
            (b"nonsense", "magic string"),
            (archive.getvalue(), "magic string"),
            (b"\x93NUMPY\1\0\6\0{1:2}\n", "keys"),
            (b"\x93NUMPY\1\0\4\0[{}]", ""),
            (pickled.getvalue(), "pickle"),
            (saved(np.zeros((2, 3), np.float32)), "channels"),
            (saved(np.zeros((2, 16), np.complex64)), "complex64"),
        ]:
            status, _, answer = server.post(body)
            assert status == 400 and text in answer.decode()
        x = np.ones((2, 16), np.float32)
        assert server.post(saved(x))[2] == saved(server.layer(x)), "the service must have lived on"
        assert server.end()[0] == 0


def imported(monkeypatch, path):
    """examples/array_service.py, started with that layer."""
    monkeypatch.setenv("CBN_LAYER", str(path))
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delitem(sys.modules, "array_service", raising=False)
    return importlib.import_module("array_service")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (cbn.BatchNorm1d(16), (2, 16, 3)),
        (cbn.BatchNorm2d(16), (2, 16, 3, 3)),
        (cbn.BatchNorm3d(16), (2, 16, 3, 3, 3)),
        (cbn.BatchNorm1d(16, axis=2), (2, 3, 16)),
        (cbn.BatchNorm(16, axis=-1), (2, 16)),
        (cbn.BatchNorm(16, axis=-3), (16, 2, 3)),
        (cbn.BatchNorm(16, axis=0), (16, 2)),
        (cbn.BatchNorm(16, axis=3), (2, 3, 3, 16)),
        (cbn.BatchNorm(2048), (2, 2048)),
        (cbn.BatchNorm(2**20), (2, 2**20)),
        (cbn.BatchNorm(16, track_running_stats=False), (2, 16)),
    ],
    ids=repr,
)
def test_any_layer_is_served(tmp_path, monkeypatch, layer, shape):
    layer.save(tmp_path / "layer.npz")
    service = imported(monkeypatch, tmp_path / "layer.npz")
    assert np.prod(service.shape_for(layer)) <= max(2**20, 2 * layer.num_features), "the first call must stay small"
    body = saved(np.random.default_rng(1).random(shape, np.float32))
    request = {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    assert service.normalized(request) == ("200 OK", saved(layer.eval()(np.load(io.BytesIO(body)))))


@pytest.mark.parametrize(
    ("length", "status"), [("x", 400), ("1e3", 400), ("-1", 413), (str(2**28 + 1), 413), ("9" * 5000, 400), ("", 400)]
)
def test_lengths_that_are_refused_before_the_body_is_read(tmp_path, monkeypatch, length, status):
    cbn.BatchNorm(16).save(tmp_path / "layer.npz")
    service = imported(monkeypatch, tmp_path / "layer.npz")
    body = io.BytesIO(b"never read")
    answer = service.normalized({"CONTENT_LENGTH": length, "wsgi.input": body})
    assert answer[0].startswith(str(status)) and body.tell() == 0
