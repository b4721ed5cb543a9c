"""worker: uvicorn's worker for gunicorn, with limits that it does not have by itself."""

import asyncio
import os
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

MOST_HEADER_BYTES = 1 << 16
MOST_CONNECTIONS = 512  # of a worker; each may hold a body in memory
SECONDS = float(os.environ.get("DIGITS_SECONDS", "10"))  # to send headers in; app.py gives a body as many


class Protocol(HttpToolsProtocol):
    """Refuses headers that would fill the memory, and connections that would wait for theirs without end."""

    in_headers = False
    header_bytes = 0
    deadline: asyncio.TimerHandle | None = None

    def expect_headers(self) -> None:
        self.stop_waiting()
        self.deadline = self.loop.call_later(SECONDS, self.transport.close)

    def stop_waiting(self) -> None:
        if self.deadline:
            self.deadline.cancel()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self.in_headers, self.header_bytes = True, 0
        self.expect_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.in_headers = False
        self.stop_waiting()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        began_before = self.in_headers
        super().data_received(data)
        if began_before and self.in_headers:  # the first piece counts for nothing: a body may end in it
            self.header_bytes += len(data)
            if self.header_bytes > MOST_HEADER_BYTES:
                self.send_400_response(f"headers must have at most {MOST_HEADER_BYTES} bytes; got more")


class Worker(UvicornWorker):
    """Answers 503 where there are more connections at once."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": Protocol,
        "limit_concurrency": MOST_CONNECTIONS,
        "server_header": False,
    }
