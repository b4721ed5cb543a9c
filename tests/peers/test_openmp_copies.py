"""test_openmp_copies: cbn next to torch and scikit-learn, which bring OpenMP runtimes of their own."""

import sys
from pathlib import Path

import pytest
from test_processes import in_a_process_group

pytest.importorskip("torch")
pytest.importorskip("sklearn")

# Every library has a parallel region, in the order in which it is imported. For scikit-learn a histogram
# gradient boosting, which is a loop of OpenMP in Cython.
TOGETHER = """
import numpy as np
{imports}
import processes, threadpoolctl

x = torch.from_numpy(processes.X)
rows = processes.X.reshape(-1, 64)[:2000]
norm = torch.nn.BatchNorm2d(16)
model = HistGradientBoostingRegressor(max_iter=3, random_state=0).fit(rows, rows[:, 0])
torch.set_num_threads(2)

def of_torch():
    return norm(x).detach().numpy()

def of_sklearn():
    return model.predict(rows)

expected = of_torch(), of_sklearn()

def all_right():
    return (
        processes.right()
        and np.allclose(of_torch(), expected[0], atol=1e-6)
        and np.array_equal(of_sklearn(), expected[1])
    )
"""
IMPORTS = {
    "cbn": "import cbn",
    "torch": "import torch",
    "sklearn": "from sklearn.ensemble import HistGradientBoostingRegressor",
}
ORDERS = [("cbn", "torch", "sklearn"), ("torch", "sklearn", "cbn"), ("sklearn", "cbn", "torch")]

# All three at the same time, in several threads; under a limit of threadpoolctl; and cbn alone in children of fork,
# before and while the parent works. Whether torch and scikit-learn work there, too, depends on the order of imports:
# they do where they use the runtime that cbn uses, and hang where they have one of their own.
WORK = """
assert all_right()
processes.check("child", [processes.child(lambda: processes.family(1)) for _ in range(10)])
with processes.busy(lambda: None if all_right() else "wrong", 2) as wrong:
    for _ in range(5):
        assert all_right()
    processes.check("child", [processes.child(processes.right) for _ in range(10)])
assert not wrong
assert all_right()
cbn.set_num_threads(4)
if processes.OPENMP:
    with threadpoolctl.threadpool_limits(1):
        assert cbn.get_num_threads() == 1, cbn.get_num_threads()
        assert all_right()
    assert cbn.get_num_threads() == 4
"""


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_next_to_torch_and_sklearn(order):
    imports = "\n".join(IMPORTS[name] for name in order)
    folder = str(Path(__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {folder!r})" + TOGETHER.replace("{imports}", imports) + WORK
    status, _, stderr = in_a_process_group([sys.executable, "-c", code])
    assert status == 0, stderr
