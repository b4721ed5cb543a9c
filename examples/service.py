"""service: a web service that normalizes the arrays which it is sent, with the layer of a file.

    pip install gunicorn
    CBN_LAYER=layer.npz gunicorn --chdir examples --preload --workers 2 service:app

POST an array as np.save writes it, with the channels on axis 1, and get y back the same way. With --preload the layer
is loaded, and has made its first call, before the workers are forked from this process: they share its memory, and all
answer fast from their first request on. Where there is no CBN_LAYER, a layer of 16 channels serves as one.
"""

import io
import os

import numpy as np

import cbn

MOST_BYTES = 1 << 28  # of a request; that many again for the answer


def load_layer():
    path = os.environ.get("CBN_LAYER")
    layer = cbn.BatchNorm.load(path) if path else cbn.BatchNorm(16)
    layer.eval()
    layer(np.zeros((64, layer.num_features, 32, 32), layer.dtype))  # the first call, large enough for all threads
    return layer


LAYER = load_layer()


def normalized(environ):
    """The status and the body of the answer."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length > MOST_BYTES:
        return "413 Content Too Large", f"a request must have at most {MOST_BYTES} bytes; got {length}\n".encode()
    try:
        y = LAYER(np.load(io.BytesIO(environ["wsgi.input"].read(length)), allow_pickle=False))
    except (TypeError, ValueError, EOFError, MemoryError, OverflowError) as error:
        return "400 Bad Request", f"{error}\n".encode()
    body = io.BytesIO()
    np.save(body, y)
    return "200 OK", body.getvalue()


def app(environ, start_response):
    status, body = normalized(environ)
    start_response(status, [("Content-Length", str(len(body))), ("X-Worker", str(os.getpid()))])
    return [body]
