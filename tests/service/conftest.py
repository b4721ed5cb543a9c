"""conftest: the libraries, the trained model and a running service that these tests share."""

import subprocess
import sys

import numpy as np
import pytest
from serving import SERVICE, Service, until


@pytest.fixture(scope="session")
def modules():
    """Makes the files of examples/service importable, where all is there that they import."""
    for name in ("starlette", "uvicorn_worker", "gunicorn", "httptools", "uvloop", "prometheus_client", "pydantic"):
        pytest.importorskip(name)
    pytest.importorskip("sklearn")
    sys.path.insert(0, str(SERVICE))
    yield
    sys.path.remove(str(SERVICE))


@pytest.fixture(scope="session")
def model(modules, tmp_path_factory):
    """A model file, trained as the README says."""
    path = tmp_path_factory.mktemp("model") / "model.npz"
    command = [sys.executable, str(SERVICE / "train.py"), "--out", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


@pytest.fixture(scope="session")
def service(model, tmp_path_factory):
    with Service(model, tmp_path_factory.mktemp("service")) as running:
        until(lambda: len(running.workers()) == 2)  # none may come or go from here on
        yield running
        assert "Traceback" not in running.log.read_text(), "no request of any test may have failed within"


@pytest.fixture(scope="session")
def digits(model):
    """Images that were not trained on, and what they show."""
    with np.load(model) as file:
        return file["check_images"], file["check_digits"]
