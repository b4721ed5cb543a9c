"""serving: examples/service as it runs, with gunicorn on a free port of 127.0.0.1, and requests to it."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SERVICE = Path(__file__).parents[2] / "examples" / "service"
HANG = 60  # seconds
JSON, RAW, NPY = "application/json", "application/octet-stream", "application/x-npy"


def until(condition):
    """Wait for what must come, and return it."""
    due = time.monotonic() + HANG
    while not (value := condition()):
        assert time.monotonic() < due, "waited in vain"
        time.sleep(0.02)
    return value


class Service:
    """gunicorn with examples/service's own configuration."""

    def __init__(self, model, folder, *options, workers=2, **environment):
        self.log = folder / "log"
        self.environment = {**os.environ, "DIGITS_MODEL": str(model), "WEB_CONCURRENCY": str(workers), **environment}
        self.command = [sys.executable, "-m", "gunicorn", "--config", str(SERVICE / "gunicorn.conf.py")]
        self.command += ["--bind", "127.0.0.1:0", *options]

    def __enter__(self):
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self.port = int(until(self.listening)[1])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def listening(self):
        text = self.log.read_text()
        assert self.process.poll() is None, text
        return re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", text)

    def workers(self):
        """Process ids."""
        return set(map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()))

    def end(self):
        """Ask it to finish; return its exit status and what it has logged."""
        self.process.terminate()
        return self.process.wait(2 * HANG), self.log.read_text()

    def ask(self, method, path, body=None, **headers):
        """Status, headers and body of the answer to one request, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def predict(self, body, content_type=JSON, **headers):
        """Status and decoded body of the answer to a prediction."""
        status, answered, answer = self.ask("POST", "/predict", body, Content_Type=content_type, **headers)
        npy = answered["Content-Type"] == NPY
        return status, np.load(io.BytesIO(answer)) if npy else json.loads(answer)

    def metrics(self):
        """Values by name with labels."""
        lines = self.ask("GET", "/metrics")[2].decode().splitlines()
        return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if not x.startswith("#"))}

    def raw(self, data):
        """An open socket on which these bytes have been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), HANG)
        connection.sendall(data)
        return connection


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def as_json(images):
    return json.dumps({"images": images.tolist()})


def some_images(count, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8), np.uint8)
