"""worker: uvicorn's worker for gunicorn, with limits that it does not have by itself."""

from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker

MOST_HEADER_BYTES = 1 << 16
MOST_CONNECTIONS = 512  # of a worker; each may hold a body in memory


class Protocol(HttpToolsProtocol):
    """Refuses headers without end, which would otherwise fill the memory."""

    in_headers = False
    header_bytes = 0

    def on_message_begin(self) -> None:
        self.in_headers, self.header_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.in_headers = False
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
