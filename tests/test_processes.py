"""test_processes: fork at any moment, and every way in which Python makes worker processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("processes.py")
LONGER = int(os.environ.get("CBN_TEST_LONGER", "1"))  # factor of the counts, for .ci/full


def in_a_process_group(command, **options):
    """Run a command; one that hangs ends with all its children, and fails."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **options
    )
    try:
        stdout, stderr = process.communicate(timeout=240 * LONGER)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"hung: {process.communicate()}")
    return process.returncode, stdout, stderr


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("before_the_first_region", 3),
        ("after_a_region", 3),
        ("under_load", 200),
        ("from_a_thread", 30),
        ("while_the_lock_is_held", 3),
        ("while_others_train", 30),
        ("fork", 4),
        ("spawn", 4),
        ("forkserver", 4),
        ("loky", 4),
    ],
)
def test_processes(name, count):
    environment = {**os.environ, "CBN_NUM_THREADS": "3"}
    status, stdout, stderr = in_a_process_group([sys.executable, SCRIPT, name, str(count * LONGER)], env=environment)
    assert status == 0, stderr
    assert stdout.endswith("all right\n")


CALLS = """
import sys
import numpy as np, cbn
x, before = np.ones((8, 16, 64, 64), np.float32), set(sys.modules)
layer = cbn.BatchNorm(16)
layer.backward(layer(x, residual=x, mask=x[:, 0] > 0))
layer.eval()(x, out=np.empty_like(x))
layer.load_state_dict(layer.state_dict())
cbn.FeatureNormalizer().partial_fit(x).transform(x)
cbn.BatchNorm(16, virtual_batch_size=4)(x)
cbn.batch_norm(x.tolist(), training=True)
print(*sorted(set(sys.modules) - before))
"""


def test_calls_import_nothing():
    """A child that is forked while another thread imports a module would wait for it for ever."""
    status, stdout, stderr = in_a_process_group([sys.executable, "-c", CALLS])
    assert (status, stdout.split()) == (0, []), stderr
