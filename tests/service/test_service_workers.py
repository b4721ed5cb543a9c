"""test_service_workers: what the workers do together: metrics, ends, replacements, and forks after cbn was used."""

import contextlib
import json
import os
import re
import signal

import numpy as np
import pytest
from serving import NPY, RAW, Service, as_json, saved, some_images, until

HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\nContent-Length: 64\r\n"
# the app, whose master makes a parallel call before it forks
MASTER = """
import os, numpy
from cbn import runtime
before = len(os.listdir("/proc/self/task"))
from app import app, PREDICT
PREDICT(numpy.zeros((1024, 8, 8), numpy.uint8))
print("threads", before, len(os.listdir("/proc/self/task")), "OpenMP", runtime.config()["openmp"], flush=True)
"""


def test_metrics_add_up_over_workers(model, tmp_path):
    with Service(model, tmp_path) as service:
        service.ask("GET", "/health")
        first, second = until(lambda: len(service.workers()) == 2 and service.workers())
        for stopped in (first, second):  # the other one must answer
            os.kill(stopped, signal.SIGSTOP)
            for count in (1, 3, 64):
                assert service.predict(saved(some_images(count)), NPY)[0] == 200
            assert service.predict(b"{")[0] == 400
            os.kill(stopped, signal.SIGCONT)
        for path in ("/made-up", "/made-up-too"):
            assert service.ask("GET", path)[0] == 404
        values = service.metrics()
    assert values['digits_requests_total{path="/predict",status="200"}'] == 6
    assert values['digits_requests_total{path="/predict",status="400"}'] == 2
    assert values['digits_requests_total{path="other",status="404"}'] == 2
    assert values['digits_request_seconds_count{path="/predict"}'] == 8
    assert values['digits_request_seconds_bucket{le="+Inf",path="/predict"}'] == 8
    assert values["digits_batch_size_sum"] == 2 * (1 + 3 + 64)
    assert values["digits_batch_size_count"] == 6
    model_info = [name for name in values if name.startswith("digits_model_info")]
    assert len(model_info) == 1 and 'engine="cbn"' in model_info[0] and values[model_info[0]] == 1
    assert not [name for name in values if "made-up" in name]


def test_an_end_waits_for_requests_in_flight(model, tmp_path):
    with Service(model, tmp_path) as service:
        until(lambda: all_started(service))  # gunicorn's signals do not reach a worker that is being forked
        with service.raw(HEAD + b"Expect: 100-continue\r\n\r\n") as connection:
            assert b"100 Continue" in connection.recv(1000), "from here on the worker waits for the body"
            service.process.terminate()
            until(lambda: "Shutting down" in service.log.read_text() or "Handling signal" in service.log.read_text())
            until(lambda: refuses(service))
            connection.sendall(bytes(64))
            answer = b""
            while piece := connection.recv(10_000):
                answer += piece
        status, log = service.process.wait(60), service.log.read_text()
    assert answer.startswith(b"HTTP/1.1 200") and json.loads(answer.partition(b"\r\n\r\n")[2])["digits"]
    assert status == 0 and not re.search(r"SIGKILL|Traceback|\[(ERROR|CRITICAL)\]", log), log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_each_signal_ends_it_in_good_order(model, tmp_path, number):
    with Service(model, tmp_path) as service:
        until(lambda: all_started(service))
        service.process.send_signal(number)
        status, log = service.process.wait(120), service.log.read_text()
    assert status == 0 and log.count("Finished server process") == 2, log
    assert not re.search(r"SIGKILL|Traceback|\[(ERROR|CRITICAL)\]", log), log


def test_workers_end_when_their_master_was_killed(model, tmp_path):
    with Service(model, tmp_path, "--timeout", "2") as service:  # they look each second
        until(lambda: all_started(service))
        service.process.kill()
        service.process.wait()
        try:
            until(lambda: refuses(service))
            until(lambda: service.log.read_text().count("Finished server process") == 2)
        finally:
            with contextlib.suppress(ProcessLookupError):  # both have ended
                os.killpg(service.process.pid, signal.SIGKILL)


def test_a_relative_path_of_the_model_is_from_where_it_was_started(model, tmp_path, monkeypatch):
    monkeypatch.chdir(model.parent)
    with Service(model.name, tmp_path) as service:
        assert service.ask("GET", "/health")[0] == 200


def all_started(service):
    return service.log.read_text().count("Application startup complete") == 2


def refuses(service):
    """Whether it takes no new connection any more."""
    try:
        service.raw(b"").close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_killed_worker_is_replaced(model, tmp_path):
    with Service(model, tmp_path) as service:
        before = until(lambda: len(service.workers()) == 2 and service.workers())
        assert service.predict(bytes(64), RAW)[0] == 200
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        after = until(lambda: killed not in service.workers() and len(service.workers()) == 2 and service.workers())
        assert len(after - before) == 1
        for _ in range(20):
            assert service.predict(bytes(64), RAW)[0] == 200
        values = service.metrics()
        assert values['digits_requests_total{path="/predict",status="200"}'] == 21, "what the dead one counted included"
        assert service.end()[0] == 0


@pytest.mark.parametrize("threads", ["1", "2"])
def test_workers_forked_after_parallel_calls(model, tmp_path, threads):
    (tmp_path / "master.py").write_text(MASTER)
    environment = {"CBN_NUM_THREADS": threads, "PYTHONPATH": str(tmp_path)}
    with Service(model, tmp_path, "master:app", workers=3, **environment) as service:
        images = some_images(1024)  # enough for the input stage to be parallel
        answers = [service.predict(images.tobytes(), RAW, Accept=NPY) for _ in range(60)]
        status, log = service.end()
    assert all(answer[0] == 200 and np.array_equal(answer[1], answers[0][1]) for answer in answers)
    assert status == 0 and "WORKER TIMEOUT" not in log, log
    before, after, openmp = map(int, re.search(r"threads (\d+) (\d+) OpenMP (\d+)", log).groups())
    assert after > before or not openmp or threads == "1", "there must have been a parallel region before the fork"
    assert len(re.findall("Booting worker", log)) == 3


def test_the_folder_of_the_metrics_goes_with_the_service(model, tmp_path):
    (tmp_path / "temporary").mkdir()
    with Service(model, tmp_path, TMPDIR=str(tmp_path / "temporary")) as service:
        assert service.predict(as_json(some_images(1)))[0] == 200
        assert len(list((tmp_path / "temporary").glob("digits-metrics-*"))) == 1
        assert service.end()[0] == 0
    assert not list((tmp_path / "temporary").glob("digits-metrics-*"))
