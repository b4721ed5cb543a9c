"""worker: uvicorn's worker for gunicorn, with limits that it does not have by itself."""

import asyncio
import os
import signal
from typing import Any, ClassVar

from settings import SECONDS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

MOST_HEADER_BYTES = 1 << 16
MOST_CONNECTIONS = 512  # of a worker; each may hold a body in memory
TOO_LONG = f"headers must have at most {MOST_HEADER_BYTES} bytes; got more"


class Protocol(HttpToolsProtocol):
    """Refuses headers that would fill the memory, and ends connections that would stay without end.

    Trailers, which may follow a body in chunks, are headers, too.
    """

    header_bytes = 0  # of this message
    unread = 0  # bytes that came since the parser last found anything; it may be keeping them
    to_read: asyncio.TimerHandle | None = None  # until headers have come
    to_write: asyncio.TimerHandle | None = None  # until the client has read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self.to_read, self.to_write):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def expect_headers(self) -> None:
        if self.to_read:
            self.to_read.cancel()
        # not closed: that would wait for a client that does not read
        self.to_read = self.loop.call_later(SECONDS, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        self.unread += len(data)
        super().data_received(data)
        if self.unread > MOST_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response(TOO_LONG)

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(TOO_LONG if self.header_bytes > MOST_HEADER_BYTES else msg)

    def count(self, size: int) -> None:
        self.unread = 0
        self.header_bytes += size
        if self.header_bytes > MOST_HEADER_BYTES:
            raise ValueError(TOO_LONG)  # which ends the parsing with a 400

    def on_message_begin(self) -> None:
        self.header_bytes = 0
        self.expect_headers()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self.count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.count(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.to_read:
            self.to_read.cancel()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.unread = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # else more requests came already
            self.expect_headers()  # after the rest of this body, if any

    def pause_writing(self) -> None:
        self.to_write = self.loop.call_later(SECONDS, self.transport.abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        if self.to_write:
            self.to_write.cancel()
        super().resume_writing()

    def _unsupported_upgrade_warning(self) -> None:
        """Two lines in the log for each request of a stranger who asks for a websocket: none."""


class Worker(UvicornWorker):
    """Answers 503 where there are more connections at once; ends once the requests in flight are answered."""

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "loop": "uvloop",
        "http": Protocol,
        "ws": "none",
        "limit_concurrency": MOST_CONNECTIONS,
        "server_header": False,
        "headers": [("X-Content-Type-Options", "nosniff")],
    }

    def _install_sigquit_handler(self) -> None:
        """SIGQUIT, which gunicorn passes on for SIGINT, too, does nothing in UvicornWorker: here it is a SIGTERM."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, signal.raise_signal, signal.SIGTERM)

    async def callback_notify(self) -> None:
        if os.getppid() != self.ppid:  # nobody is left who would end or replace it
            signal.raise_signal(signal.SIGTERM)
        await super().callback_notify()
