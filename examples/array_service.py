"""array_service: a web service that normalizes the arrays which it is sent, with the layer of a file.

    pip install gunicorn
    CBN_LAYER=layer.npz gunicorn --chdir examples --preload --workers 2 array_service:app

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
    layer(np.zeros(shape_for(layer), layer.dtype))  # the first call
    return layer


def shape_for(layer):
    """A shape that the layer takes, of about a million values: enough for all threads."""
    ranks = {cbn.BatchNorm1d: 2, cbn.BatchNorm2d: 4, cbn.BatchNorm3d: 5}
    rank = max(ranks.get(type(layer), 2), layer.axis + 1, -layer.axis)
    shape = [1] * rank
    shape[layer.axis] = layer.num_features
    shape[0 if layer.axis % rank else 1] = max(2, 2**20 // layer.num_features)
    return shape


LAYER = load_layer()


def normalized(environ):
    """The status and the body of the answer."""
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if not 0 <= length <= MOST_BYTES:
            return "413 Content Too Large", f"a request must have at most {MOST_BYTES} bytes; got {length}\n".encode()
        request = io.BytesIO(environ["wsgi.input"].read(length))
        y = LAYER(np.lib.format.read_array(request, allow_pickle=False))  # np.load would unpack archives, too
    except Exception as error:  # what is no array makes the parsers underneath raise nearly anything
        return "400 Bad Request", f"{error}\n".encode()
    body = io.BytesIO()
    np.save(body, y)
    return "200 OK", body.getvalue()


def app(environ, start_response):
    status, body = normalized(environ)
    start_response(status, [("Content-Length", str(len(body))), ("X-Worker", str(os.getpid()))])
    return [body]
