"""app: the web service: a page to draw a digit on, predictions, health and metrics."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import engines
import metrics
import network
import numpy as np
from inputs import JSON, MOST_BYTES, NPY, Images, reader_for, refused
from pydantic_core import to_json
from settings import ENGINE, MODEL_FILE, SECONDS, wrong
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PAGE_HEADERS = {  # the page gets all that it needs from here, and nobody may frame it
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
PAGE = {  # read once: a server of files answers ranges, too, which nobody needs here
    path: (Path(__file__).with_name("page").joinpath(name).read_bytes(), media_type)
    for path, name, media_type in [
        ("/", "index.html", "text/html"),
        ("/page.css", "page.css", "text/css"),
        ("/page.js", "page.js", "text/javascript"),
    ]
}

if ENGINE not in engines.ENGINES:
    raise wrong("DIGITS_ENGINE", f"be one of {', '.join(engines.ENGINES)}", repr(ENGINE))
try:
    MODEL = network.load(MODEL_FILE)
except Exception as error:  # a file of anything makes NumPy raise nearly anything
    raise wrong("DIGITS_MODEL", "be a file that train.py writes", f"{MODEL_FILE} ({error!r})") from None
try:
    PREDICT = engines.ENGINES[ENGINE](MODEL)
    PREDICT(MODEL.check_images)  # the first call, before any worker is forked
except Exception as error:
    raise wrong("DIGITS_ENGINE", "be installed and take the model", f"{ENGINE} ({error!r})") from None
metrics.MODEL.labels(ENGINE, MODEL.sha256).set(1)


def reads_right() -> bool:
    """Whether it still reads the images of the model file."""
    return bool((PREDICT(MODEL.check_images).argmax(axis=1) == MODEL.check_digits).all())


async def body_of(request: Request) -> bytes:
    """The body, if it comes in time and is not too long, whatever its headers say."""
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise refused(413, "body", f"have at most {MOST_BYTES} bytes", "more")
    except TimeoutError:
        raise refused(408, "body", f"come within {SECONDS:g} seconds", f"{len(body)} bytes of it") from None
    return bytes(body)


async def predict(request: Request) -> Response:
    """Digits and probabilities. Inline: a thread costs more than most batches, and JSON holds the GIL in any case."""
    read = reader_for(request.headers)
    probabilities = PREDICT(read(await body_of(request)))
    metrics.IMAGES.observe(len(probabilities))
    if NPY in request.headers.get("accept", "").lower():
        file = io.BytesIO()
        np.lib.format.write_array(file, probabilities, allow_pickle=False)
        return Response(file.getvalue(), media_type=NPY)
    digits = probabilities.argmax(axis=1).tolist()
    rounded = np.round(probabilities.astype(np.float64), 6).tolist()
    return Response(to_json({"digits": digits, "probabilities": rounded}), media_type=JSON)


async def health(request: Request) -> Response:
    ready = reads_right()
    state = {"status": "ready" if ready else "the self-check predictions are wrong", "engine": ENGINE}
    return JSONResponse({**state, "model": MODEL.sha256, "accuracy": MODEL.accuracy}, 200 if ready else 503)


async def numbers(request: Request) -> Response:
    return Response(metrics.report(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def schema(request: Request) -> Response:
    return JSONResponse(Images.model_json_schema())


async def page(request: Request) -> Response:
    content, media_type = PAGE[request.scope["path"]]  # request.url is what the client's Host makes of it
    return Response(content, headers=PAGE_HEADERS, media_type=media_type)


async def http_error(request: Request, error: Exception) -> Response:
    """Every error as JSON; those of Starlette in the words of ours."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    text = error.detail
    if error.status_code == 404:
        text = f"path must be one of {', '.join(sorted(PATHS))}; got another"
    elif error.status_code == 405:
        text = f"method must be one of {headers['Allow']}; got {request.method}"
    if error.status_code in (408, 413):  # the rest of the body is not waited for
        headers["Connection"] = "close"
    return JSONResponse({"error": text}, error.status_code, headers)


async def failed(request: Request, error: Exception) -> Response:
    """A fault of the service; its traceback goes to the log alone."""
    return JSONResponse({"error": "the service must not fail; got an error within, which its log has"}, 500)


async def gone(request: Request, error: Exception) -> Response:
    """The client went before its body had come: for the metrics alone."""
    return Response(status_code=499)


ROUTES = [
    *(Route(path, page) for path in PAGE),
    Route("/predict", predict, methods=["POST"]),
    Route("/schema", schema),
    Route("/health", health),
    Route("/metrics", numbers),
]
PATHS = frozenset(route.path for route in ROUTES)
app = Starlette(
    routes=ROUTES,
    middleware=[Middleware(metrics.Measured, paths=PATHS)],
    exception_handlers={HTTPException: http_error, ClientDisconnect: gone, Exception: failed},
)
app.router.redirect_slashes = False  # to where the client's Host says
