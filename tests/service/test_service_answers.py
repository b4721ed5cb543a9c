"""test_service_answers: what the service answers to requests as they should be, and on which engine it may run."""

import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from serving import JSON, NPY, RAW, SERVICE, Service, as_json, saved, some_images


@pytest.fixture(scope="session")
def predict(model):
    """The network, here."""
    network = importlib.import_module("network")
    return network.Folded(network.load(model))


@pytest.mark.parametrize("count", [1, 2, 64, 1024])
@pytest.mark.parametrize("content_type", [JSON, RAW, NPY, "application/json; charset=utf-8", "Application/X-NPY"])
def test_each_form_gets_the_same_answer(service, predict, count, content_type):
    images = some_images(count)
    expected = predict(images)
    kind = content_type.partition(";")[0].lower()
    body = {JSON: as_json(images), RAW: images.tobytes(), NPY: saved(images)}[kind]
    status, answer = service.predict(body, content_type)
    assert status == 200
    assert answer["digits"] == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    status, answer = service.predict(body, content_type, Accept="Text/Plain, Application/X-NPY;q=0.9")
    assert status == 200 and answer.dtype == np.float32
    np.testing.assert_array_equal(answer, expected)


def test_digits_are_read(service, digits):
    images, shown = digits
    assert service.predict(as_json(images))[1]["digits"] == shown.tolist()


def test_fortran_order(service, predict):
    images = some_images(3)
    status, answer = service.predict(saved(np.asfortranarray(images)), NPY, Accept=NPY)
    assert status == 200
    np.testing.assert_array_equal(answer, predict(images))


def test_a_body_in_chunks(service, predict):
    images = some_images(5)
    status, answer = service.predict(iter([bytes(image) for image in images]), RAW, Accept=NPY)
    assert status == 200
    np.testing.assert_array_equal(answer, predict(images))


def test_health(service):
    status, _, body = service.ask("GET", "/health")
    state = json.loads(body)
    assert status == 200 and state["status"] == "ready" and state["engine"] == "cbn" and len(state["model"]) == 64
    assert state["accuracy"] >= 0.97


def test_health_of_a_network_that_reads_wrong(model, tmp_path):
    with np.load(model) as file:
        arrays = dict(file)
    arrays["check_digits"] = (arrays["check_digits"] + 1) % 10
    np.savez(tmp_path / "wrong.npz", **arrays)
    with Service(tmp_path / "wrong.npz", tmp_path) as wrong:
        status, _, body = wrong.ask("GET", "/health")
    assert status == 503 and "self-check" in json.loads(body)["status"]


def test_schema(service):
    assert "images" in json.loads(service.ask("GET", "/schema")[2])["properties"]


@pytest.mark.parametrize(("path", "kind"), [("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")])
def test_page_gets_nothing_from_elsewhere(service, path, kind):
    status, headers, body = service.ask("GET", path)
    assert status == 200 and kind in headers["Content-Type"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert b"http:" not in body and b"https:" not in body


@pytest.mark.parametrize("engine", ["cbn-unfolded", "torch", "onnxruntime"])
def test_engines_agree(model, predict, tmp_path, engine):
    for name in {"torch": ["torch"], "onnxruntime": ["onnxruntime", "onnx"]}.get(engine, []):
        pytest.importorskip(name)
    if engine == "onnxruntime":
        subprocess.run([sys.executable, str(SERVICE / "engines.py"), str(model)], check=True, timeout=300)
    images = some_images(256)
    with Service(model, tmp_path, DIGITS_ENGINE=engine) as other:
        for start in range(0, 256, 32):  # some for each worker
            status, answer = other.predict(images[start : start + 32].tobytes(), RAW, Accept=NPY)
            assert status == 200
            np.testing.assert_allclose(answer, predict(images[start : start + 32]), atol=1e-5)
        assert json.loads(other.ask("GET", "/health")[2])["engine"] == engine
        assert other.end()[0] == 0


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"DIGITS_MODEL": "none.npz"}, "DIGITS_MODEL must be a file that train.py writes; got "),
        ({"DIGITS_MODEL": "."}, "DIGITS_MODEL must be a file that train.py writes; got "),
        ({"DIGITS_MODEL": "short.npz"}, "DIGITS_MODEL must be a file that train.py writes; got "),
        ({"DIGITS_MODEL": "other.npz"}, "DIGITS_MODEL must be a file that train.py writes; got "),
        (
            {"DIGITS_ENGINE": "abacus"},
            "DIGITS_ENGINE must be one of cbn, cbn-unfolded, torch, onnxruntime; got 'abacus'",
        ),
        ({"DIGITS_ENGINE": "onnxruntime"}, "DIGITS_ENGINE must be installed and take the model; got onnxruntime"),
        *(
            ({"DIGITS_SECONDS": text}, f"DIGITS_SECONDS must be a number above 0; got {text!r}")
            for text in ("abc", "-1", "0", "nan", "inf", "")
        ),
    ],
)
def test_what_cannot_serve_does_not_start(model, tmp_path, environment, text):
    alone = shutil.copy(model, tmp_path / "alone.npz")  # no file for ONNX Runtime is beside it
    (tmp_path / "short.npz").write_bytes(model.read_bytes()[:-500])
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "temporary").mkdir()
    service = Service(alone, tmp_path, TMPDIR=str(tmp_path / "temporary"))
    service.environment.update(environment)
    done = subprocess.run(
        service.command, cwd=tmp_path, env=service.environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr + done.stdout
    assert done.stderr.splitlines()[-1].startswith(text), done.stderr
    if environment.get("DIGITS_MODEL", "") != "":
        assert str(tmp_path / environment["DIGITS_MODEL"]).removesuffix("/.") in done.stderr, "from where it started"
    assert not list((tmp_path / "temporary").glob("digits-metrics-*"))
