"""conftest: what tests of Dask share: a cluster, every scheduler, and small blocks."""

from contextlib import nullcontext

import pytest

from cbn import blocks

LOCAL = "127.0.0.1:0"


@pytest.fixture(scope="module")
def cluster():
    """Two processes of one thread each, which compute for a test that uses this."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=LOCAL) as made:
        yield made


@pytest.fixture
def workers(cluster):
    with pytest.importorskip("distributed").Client(cluster) as client:
        yield client


@pytest.fixture(params=["synchronous", "threads", "cluster"])
def scheduler(request):
    dask = pytest.importorskip("dask")
    if request.param == "cluster":
        request.getfixturevalue("workers")
    with nullcontext() if request.param == "cluster" else dask.config.set(scheduler=request.param):
        yield request.param


@pytest.fixture
def count(tmp_path):
    """A function of a chunk, and how often it has been called."""

    def counting(block, block_info=None):
        if block_info is None or block_info:  # not to infer a dtype
            with open(tmp_path / "log", "a") as log:
                log.write("x")
        return block

    counting.calls = lambda: len((tmp_path / "log").read_text())
    return counting


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(blocks, "LARGEST", 500)
