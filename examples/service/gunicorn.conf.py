"""gunicorn.conf: workers that are forked from one process, which has loaded the model and used it."""

import atexit
import os
import shutil
import tempfile

# one thread in each worker, and said before NumPy is loaded: there are as many workers as CPUs
for variable in ("CBN_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
if "DIGITS_MODEL" in os.environ:  # from where it was started, before chdir
    os.environ["DIGITS_MODEL"] = os.path.abspath(os.environ["DIGITS_MODEL"])
# where the workers leave their metrics, for each other; the library asks for it when it is imported
metrics_folder = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="digits-metrics-")


def remove_metrics():
    shutil.rmtree(metrics_folder, ignore_errors=True)


atexit.register(remove_metrics)  # gunicorn's on_exit is not called where the start fails

chdir = os.path.dirname(os.path.abspath(__file__))
wsgi_app = "app:app"
bind = ["127.0.0.1:8000"]
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = "worker.Worker"
preload_app = True
control_socket_disable = True  # nothing here uses it
graceful_timeout = 30  # seconds for requests in flight


def post_fork(server, worker):
    atexit.unregister(remove_metrics)


def child_exit(server, worker):
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
