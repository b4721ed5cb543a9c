"""test_service_limits: clients that fill memory or keep connections at no cost, who are refused; faults within."""

import contextlib
import json
import os
import socket

import pytest
from serving import HANG, RAW, Service, as_json, some_images, until

MOST_HEADER_BYTES = 1 << 16
SECONDS = 0.5  # for headers and the like
POSTED = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n"
BROKEN = """
import app as service
app = service.app
def fails(images):
    raise ArithmeticError("as the test wants it")
service.PREDICT = fails
"""


@pytest.fixture(scope="module")
def impatient(model, tmp_path_factory):
    with Service(model, tmp_path_factory.mktemp("impatient"), workers=1, DIGITS_SECONDS=str(SECONDS)) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


def all_of(connection):
    """What comes until the service closes, which it must."""
    answer = b""
    try:
        while piece := connection.recv(1 << 20):
            answer += piece
    except ConnectionResetError:  # it had not read all
        pass
    return answer


@pytest.mark.parametrize("beginning", [b"", HEALTH, b"GET /health HTTP/1.1\r\nHost:"])
def test_headers_that_do_not_come(impatient, beginning):
    with impatient.raw(beginning) as connection:
        assert all_of(connection) == b""


def test_a_body_that_does_not_come(impatient):
    with impatient.raw(POSTED + b"Content-Length: 9\r\n\r\n123") as connection:
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 408") and b"connection: close" in answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (HEALTH + b"Content-Length: 1000\r\n\r\n", b"200"),
        (HEALTH + b"\r\n", b"200"),
        (POSTED.replace(b"octet-stream", b"gzip") + b"Content-Length: 1000\r\n\r\n", b"415"),
    ],
    ids=["body", "newline", "type"],
)
def test_an_answered_connection_ends_although_bytes_come(impatient, request_bytes, status):
    with impatient.raw(request_bytes) as connection:
        answer = b""
        while not answer.endswith(b"}"):  # head and body may come apart
            answer += connection.recv(10_000)
        assert answer.split()[1] == status
        connection.sendall(b"\r\n")  # which ends uvicorn's own timer
        assert all_of(connection) == b""


def sockets(service):
    """How many the only worker has."""
    (worker,) = service.workers()
    return sum(os.readlink(fd.path).startswith("socket:") for fd in os.scandir(f"/proc/{worker}/fd"))


def test_a_client_that_reads_nothing(model, tmp_path):
    body = some_images(1024).tobytes()
    many = (POSTED + b"Content-Length: %d\r\n\r\n" % len(body) + body) * 200
    with Service(model, tmp_path, workers=1, DIGITS_SECONDS=str(SECONDS)) as service, socket.socket() as connection:
        until(lambda: "Application startup complete" in service.log.read_text())
        before = sockets(service)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(HANG)
        connection.connect(("127.0.0.1", service.port))
        until(lambda: sockets(service) > before)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(many)
        until(lambda: sockets(service) == before)
        assert 0 < service.metrics()['digits_requests_total{path="/predict",status="200"}'] < 200


def test_too_many_connections(model, tmp_path):
    with Service(model, tmp_path, workers=1) as service:
        waiting = [service.raw(b"") for _ in range(520)]
        until(lambda: service.ask("GET", "/health")[0] == 503)
        for connection in waiting:
            connection.close()
        until(lambda: service.ask("GET", "/health")[0] == 200)


def streamed(service, beginning, piece, most):
    """Send pieces until the service closes; whether it did before `most` bytes, and what it answered."""
    with service.raw(beginning) as connection:
        try:
            for _ in range(most // len(piece)):
                connection.sendall(piece)
        except OSError:
            return True
        return False


@pytest.mark.parametrize("beginning", [HEALTH, POSTED], ids=["GET", "POST"])
@pytest.mark.parametrize("place", ["headers", "trailers", "extension", "newlines", "path"])
@pytest.mark.parametrize("piece", [b"x: " + b"a" * 100_000 + b"\r\n", b"a" * 100_000, b"a:\r\n" * 25_000])
def test_endless(service, beginning, place, piece):
    chunked = beginning + b"Transfer-Encoding: chunked\r\n\r\n"
    beginning = {
        "headers": beginning,
        "trailers": chunked + b"0\r\n",
        "extension": chunked + b"1;a",
        "newlines": b"",
        "path": b"GET /",
    }[place]
    if place == "newlines":
        piece = b"\r\n" * 50_000
    if place in ("extension", "path"):
        piece = piece.translate(None, b": \r\n")
    workers = service.workers()
    assert streamed(service, beginning, piece, 64_000_000)
    assert service.workers() == workers and service.ask("GET", "/health")[0] == 200


@pytest.mark.parametrize(("over", "status"), [(0, b"200"), (1, b"400")])
@pytest.mark.parametrize("split", [False, True], ids=["at once", "in two"])
@pytest.mark.parametrize("place", ["value", "name", "path"])
def test_the_limit_of_headers_is_exact(service, place, over, status, split):
    room = MOST_HEADER_BYTES + over - len("/healthx: \r\nHost: a\r\nConnection: close\r\n")
    path, name, value = b"/health", b"x", b""
    if place == "path":
        path += b"?" + b"a" * (room - 1)
    elif place == "name":
        name += b"a" * room
    else:
        value = b"a" * room
    request = b"GET %s HTTP/1.1\r\n%s: %s\r\nHost: a\r\nConnection: close\r\n\r\n" % (path, name, value)
    with service.raw(request[:40_000] if split else request) as connection:
        if split:
            connection.sendall(request[40_000:])
        answer = all_of(connection)
    assert answer.split()[1] == status
    assert not over or b"headers must have at most 65536 bytes; got more" in answer


def test_a_fault_within_has_the_form_of_all_errors(model, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    with Service(model, tmp_path, "broken:app", PYTHONPATH=str(tmp_path)) as service:
        status, headers, body = service.ask("POST", "/predict", bytes(64), Content_Type=RAW)
        assert service.metrics()['digits_requests_total{path="/predict",status="500"}'] == 1
        log = service.log.read_text()
    assert status == 500 and headers["X-Content-Type-Options"] == "nosniff"
    assert " must " in json.loads(body)["error"] and "ArithmeticError" not in body.decode()
    assert "ArithmeticError: as the test wants it" in log


def test_no_ranges_no_redirects_and_any_host(service):
    status, _, body = service.ask("GET", "/page.js", Range="bytes=" + "0-1," * 15_000 + "0-1")
    assert status == 200 and len(body) > 1000
    for host in ("a/foo", "a?b", "", "[", "a/../page.css"):
        assert service.ask("GET", "/page.js", Host=host)[2] == body
    for path in ("/page.js/", "/predict/", "//evil.example/"):
        status, headers, _ = service.ask("GET", path)
        assert status == 404 and "Location" not in headers


def test_a_websocket_is_not_had_nor_logged(service):
    before = service.log.read_text()
    asked = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "a"}
    assert service.ask("GET", "/health", **asked)[0] == 200
    assert service.log.read_text() == before


@pytest.mark.parametrize("path", ["/", "/page.css", "/predict", "/health", "/metrics", "/schema", "/nothing"])
def test_no_answer_is_sniffed(service, path):
    assert service.ask("GET", path)[1]["X-Content-Type-Options"] == "nosniff"
    with service.raw(b"nonsense\r\n\r\n") as connection:
        assert b"nosniff" in all_of(connection)
    assert service.predict(as_json(some_images(1)))[0] == 200
