"""metrics: what Prometheus is told, added up over all workers."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUESTS = Counter("digits_requests", "Requests answered.", ["path", "status"])
SECONDS = Histogram(
    "digits_request_seconds",
    "From the headers of a request to the start of its answer.",
    ["path"],
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1, 10),
)
IMAGES = Histogram("digits_batch_size", "Images of a prediction.", buckets=[2**k for k in range(11)])
MODEL = Gauge("digits_model_info", "1 for the model that serves.", ["engine", "sha256"], multiprocess_mode="max")


def report() -> bytes:
    """All metrics of all workers, in Prometheus' text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


class Measured:
    """Counts and times every request. Paths that are not known are one, since a stranger could make up any number."""

    def __init__(self, app: ASGIApp, paths: frozenset[str]):
        self.app, self.paths = app, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start = time.perf_counter()
        path = scope["path"] if scope["path"] in self.paths else "other"

        def note(status: int) -> None:
            REQUESTS.labels(path, status).inc()
            SECONDS.labels(path).observe(time.perf_counter() - start)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                note(message["status"])  # before the client knows, who may ask for the metrics next
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception:
            note(500)
            raise
