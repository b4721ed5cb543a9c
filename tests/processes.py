"""processes: what test_processes.py runs, each function in a process of its own: `python processes.py NAME [COUNT]`.

They print what they counted, and exit with another status than 0 where something was wrong. A child that hangs is ended
by its own alarm, which its parent then reports.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from functools import partial

import numpy as np

import cbn
from cbn import _core, runtime

HANG = 60  # seconds after which a child counts as hung
X = np.random.default_rng(0).random((8, 16, 64, 64), dtype=np.float32)
EXPECTED = cbn.batch_norm(X, training=True, num_threads=1).tobytes()  # serial: starts no threads
OPENMP = runtime.config()["openmp"] > 0


def threads_now():
    return len(os.listdir("/proc/self/task"))


threads_at_start = threads_now()  # NumPy's BLAS has some


def right():
    """Whether a parallel call has the right bits, and started threads."""
    same = cbn.batch_norm(X, training=True, num_threads=3).tobytes() == EXPECTED
    return same and (threads_now() > threads_at_start or not OPENMP)


def child(work):
    """Do the work in a fork; return its exit status: 0 if the work returned True."""
    global threads_at_start
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 2
    try:
        signal.alarm(HANG)
        threads_at_start = threads_now()
        status = 0 if work() else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def family(generations):
    """Whether a process, its child, and so on, are right."""
    return right() and (generations == 0 or child(lambda: family(generations - 1)) == 0) and right()


def check(name, statuses):
    bad = [status for status in statuses if status]
    if bad:
        sys.exit(f"{name}: {len(bad)} of {len(statuses)} failed: exit statuses {bad[:10]}; {-signal.SIGALRM} is a hang")


@contextlib.contextmanager
def busy(work, threads=3):
    """Some threads do the work again and again; gives the list of what it returned, as far as that was not None."""
    stop, returned = threading.Event(), []

    def again():
        while not stop.is_set():
            result = work()
            if result is not None:
                returned.append(result)

    workers = [threading.Thread(target=again) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield returned
    finally:
        stop.set()
        for worker in workers:
            worker.join()


# --- fork ---


def before_the_first_region(count):
    check("child", [child(lambda: family(1)) for _ in range(count)])
    check("parent", [not right()])


def after_a_region(count):
    check("parent", [not right()])
    check("child", [child(lambda: family(3)) for _ in range(count)])
    check("parent", [not right()])


def under_load(count):
    """While other threads are in parallel regions; every tenth child has a child."""
    with busy(lambda: None if right() else "wrong bits") as wrong:
        check("child", [child(partial(family, int(i % 10 == 0))) for i in range(count)])
    check("busy threads", wrong)
    check("parent", [not right()])


def from_a_thread(count):
    """Not from the main thread, which works meanwhile, as others do."""
    statuses = []

    def fork():
        statuses.extend(child(lambda: family(1)) for _ in range(count))

    with busy(lambda: None if right() else "wrong bits", 2) as wrong:
        forking = threading.Thread(target=fork)
        forking.start()
        while forking.is_alive():
            if not right():
                wrong.append("wrong bits")
        forking.join()
    check("child", statuses)
    check("busy threads", wrong)


# --- a layer that others use ---


def while_the_lock_is_held(count):
    """A fork waits for the thread that holds the lock of all layers: nobody would free it in the child."""
    layer, normalizer = cbn.BatchNorm(16), cbn.FeatureNormalizer()
    expected = cbn.BatchNorm(16)(X).tobytes()
    taken = threading.Event()

    def hold():
        with _core.lock:
            taken.set()
            time.sleep(0.2)

    def use():
        same = layer(X).tobytes() == expected and int(layer.num_batches_tracked) == 1
        layer.backward(X)
        return same and len(layer.state_dict()) == 5 and normalizer.partial_fit(X).moments.count == 8 * 64 * 64

    for _ in range(count):
        taken.clear()
        holder = threading.Thread(target=hold)
        holder.start()
        taken.wait()
        check("child", [child(use)])
        holder.join()
    with _core.lock:  # by the thread that forks
        check("child", [child(use)])
    check("parent", [not use()])


def whole(layer):
    """Whether the running statistics are those of whole batches of `while_others_train`."""
    state = layer.state_dict()
    mean, var = state["running_mean"], state["running_var"]
    return np.array_equal(mean, var) and (mean == mean[0]).all()


def while_others_train(count):
    """The child's copy of a layer that another thread trains is whole: mean and variance are of the same batches.

    All batches have a mean that equals their variance, so that the running ones stay equal from 1 on.
    """
    pairs = np.array([[0, 1], [3, 1]], np.float32)  # mean and unbiased variance 0.5; 2
    batches = [np.repeat(pair[:, None], 20_000, axis=1) for pair in pairs]
    statuses = []
    for options in ({}, {"virtual_batch_size": 2}, {"momentum": None}):
        layer = cbn.BatchNorm(20_000, **{"momentum": 0.5} | options)
        layer.running_mean[...] = 1

        def train(layer=layer):
            for batch in batches:
                layer(batch)

        def use(layer=layer, train=train):
            if not whole(layer):
                return False
            train()
            copy = cbn.BatchNorm(20_000)
            copy.load_state_dict(layer.state_dict())
            return whole(layer) and whole(copy) and layer.eval()(batches[0]).shape == (2, 20_000)

        with busy(train, 2):
            statuses += [child(use) for _ in range(count)]
        if not whole(layer):
            sys.exit("the parent's layer must be whole")
    check("child", statuses)


# --- multiprocessing ---


def trained(layer, x):
    """What a worker does: the layer after a batch, y, and dx."""
    y = layer(x)
    return layer, y, layer.backward(x)


def send_trained(queue, layer, x):
    queue.put(trained(layer, x))


def same_as_here(result):
    layer, y, dx = result
    own, own_y, own_dx = trained(cbn.BatchNorm(16, momentum=0.25), X)
    same = all(
        np.array_equal(a, b) for a, b in zip(layer.state_dict().values(), own.state_dict().values(), strict=True)
    )
    return same and np.array_equal(y, own_y) and np.array_equal(dx, own_dx)


def with_multiprocessing(count, method):
    """A layer goes to the workers and comes back, in each of the usual ways."""
    context = multiprocessing.get_context(method)
    layer = cbn.BatchNorm(16, momentum=0.25)
    check("parent", [not right()])
    queue = context.Queue()
    process = context.Process(target=send_trained, args=(queue, layer, X))
    process.start()
    results = [queue.get(timeout=HANG)]
    process.join()
    with context.Pool(2) as pool:
        results += pool.starmap_async(trained, [(layer, X)] * count).get(timeout=HANG)
    with concurrent.futures.ProcessPoolExecutor(2, context) as pool:
        results += pool.map(trained, [layer] * count, [X] * count, timeout=HANG)
    check(method, [not same_as_here(result) for result in results])
    check("parent", [not right(), process.exitcode])


def fork(count):
    with_multiprocessing(count, "fork")


def spawn(count):
    with_multiprocessing(count, "spawn")


def forkserver(count):
    with_multiprocessing(count, "forkserver")


def worker_threads():
    return cbn.get_num_threads(), int(os.environ["OMP_NUM_THREADS"])


def loky(count):
    """joblib's workers, which have their share of the CPUs in OMP_NUM_THREADS."""
    import joblib

    if os.environ.pop("CBN_NUM_THREADS", None):  # it would count more
        check("parent", [not right()])
    layer = cbn.BatchNorm(16, momentum=0.25)
    with joblib.Parallel(2, timeout=HANG) as parallel:
        results = parallel(joblib.delayed(trained)(layer, X) for _ in range(count))
        pairs = parallel(joblib.delayed(worker_threads)() for _ in range(2))
    check("loky", [not same_as_here(result) for result in results])
    if OPENMP:
        check("threads", [own != given for own, given in pairs])


SCENARIOS = (
    before_the_first_region,
    after_a_region,
    under_load,
    from_a_thread,
    while_the_lock_is_held,
    while_others_train,
    fork,
    spawn,
    forkserver,
    loky,
)


if __name__ == "__main__":
    name, count = sys.argv[1], int(sys.argv[2])
    {scenario.__name__: scenario for scenario in SCENARIOS}[name](count)
    print(f"{name}: {count} rounds, all right")
