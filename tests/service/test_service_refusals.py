"""test_service_refusals: requests that are wrong, hostile or too large: a clear 4xx, and the workers live on."""

import importlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import JSON, NPY, RAW, as_json, saved, some_images

IMAGE = [[0] * 8] * 8
MOST_BYTES = 1 << 20
ARRAY = "body must be an array as np.save writes it (version 1.0); got "


def header(text, version=b"\1\0"):
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text


def absurd():
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**15, 8, 8)})
    return file.getvalue()


def shaped(shape, descr="|u1"):
    """An array header whose shape is this text, as long as np.save makes it."""
    return header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode())


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    return file.getvalue()


def archive():
    file = io.BytesIO()
    np.savez(file, some_images(1))
    return file.getvalue()


def posted(value):
    return json.dumps({"images": value})


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("", 400, "body must be JSON; got EOF"),
        ("{", 400, "body must be JSON; got EOF"),
        (b"\xff\xfe", 400, "body must be JSON; got"),
        ("[" * 100_000, 400, "body must be JSON; got recursion limit"),
        ('{"images": [[[NaN]]]}', 422, "images[0][0][0] must be an integer from 0 to 255; got nan"),
        ("[]", 422, 'body must be an object {"images": ...}; got list of 0'),
        ("null", 422, 'body must be an object {"images": ...}; got None'),
        ("{}", 422, "images must be a list of 1 to 1024 images; got nothing"),
        ('{"images": [], "model": 1}', 422, "images must be a list of 1 to 1024 images; got list of 0"),
        (posted([]), 422, "images must be a list of 1 to 1024 images; got list of 0"),
        (posted([IMAGE] * 1025), 422, "images must be a list of 1 to 1024 images; got list of 1025"),
        (posted({"a": 1}), 422, "images must be a list of 1 to 1024 images; got dict of 1"),
        (posted(["x" * 1000]), 422, "images[0] must be a list of 8 rows; got 'xxx"),
        (posted([IMAGE, IMAGE[:7]]), 422, "images[1] must be a list of 8 rows; got list of 7"),
        (posted([[*IMAGE[:7], [0] * 9]]), 422, "images[0][7] must be a list of 8 pixels; got list of 9"),
        *(
            (
                posted([[*IMAGE[:7], [0] * 7 + [value]]]),
                422,
                f"images[0][7][7] must be an integer from 0 to 255; got {got}",
            )
            for value, got in [
                (256, "256"),
                (-1, "-1"),
                (0.5, "0.5"),
                (1.0, "1.0"),
                (True, "True"),
                (None, "None"),
                ("1", "'1'"),
                (float("inf"), "inf"),
                (10**400, "an integer of more than 64 bits"),
            ]
        ),
        ('{"images": [' + "9" * 5000 + "]}", 400, "body must be JSON; got number out of range"),
    ],
)
def test_json(service, body, status, error):
    answered, answer = service.predict(body, JSON)
    assert (answered, answer["error"][: len(error)]) == (status, error)
    assert len(answer["error"]) < 300


def test_keys_that_are_not_known_are_ignored(service):
    body = json.dumps({str(k): 0 for k in range(60_000)} | {"images": [IMAGE]})
    assert service.predict(body)[0] == 200
    errors = importlib.import_module("inputs").Images.model_validate_json
    with pytest.raises(ValueError) as failure:
        errors(json.dumps({str(k): 0 for k in range(60_000)}))
    assert failure.value.error_count() == 1, "each would be an error, and 60,000 of them take half a second"


@pytest.mark.parametrize(
    ("content_type", "body", "status", "error"),
    [
        (RAW, b"", 422, "body must have 64 bytes for each of 1 to 1024 images; got 0 bytes"),
        (RAW, bytes(65), 422, "body must have 64 bytes for each of 1 to 1024 images; got 65 bytes"),
        (RAW, bytes(64 * 1025), 422, "body must have 64 bytes for each of 1 to 1024 images; got 65600 bytes"),
        (NPY, b"", 400, ARRAY),
        (NPY, b"nonsense", 400, ARRAY),
        (NPY, archive(), 400, ARRAY),
        (NPY, header(b"[" * 9000), 400, ARRAY),
        (NPY, header(b"{1:2}\n"), 400, ARRAY),
        (NPY, header(b"", b"\2\0"), 400, ARRAY + "'version 2.0'"),
        (NPY, shaped("(True, 8, 8)") + bytes(64), 400, ARRAY + "'a shape of other than lengths'"),
        (NPY, shaped("(0x" + "f" * 5000 + ", 8, 8)"), 400, ARRAY + "'a shape of other than lengths'"),
        (NPY, shaped("(" + "9" * 5000 + ", 8, 8)"), 400, ARRAY),
        (NPY, shaped("(-1, 8, 8)"), 400, ARRAY + "'a shape of other than lengths'"),
        (NPY, shaped("(1L, 8L, 8L)") + bytes(64), 400, ARRAY + "'Reading `.npy`"),
        (NPY, pickled(), 422, "dtype must be uint8; got 'object'"),
        (NPY, saved(np.full((1, 8, 8), np.nan, np.float32)), 422, "dtype must be uint8; got 'float32'"),
        (NPY, saved(np.zeros((1, 8, 8), [("a" * 500, "i1")])), 422, "dtype must be uint8; got"),
        (NPY, absurd(), 422, "shape must be (N, 8, 8) with N from 1 to 1024; got '(1000000000000000, 8, 8)'"),
        (NPY, saved(np.zeros((8, 8), np.uint8)), 422, "shape must be (N, 8, 8) with N from 1 to 1024; got '(8, 8)'"),
        (
            NPY,
            saved(np.zeros((0, 8, 8), np.uint8)),
            422,
            "shape must be (N, 8, 8) with N from 1 to 1024; got '(0, 8, 8)'",
        ),
        (
            NPY,
            saved(np.zeros((1, 8, 9), np.uint8)),
            422,
            "shape must be (N, 8, 8) with N from 1 to 1024; got '(1, 8, 9)'",
        ),
        (NPY, saved(some_images(2))[:-1], 400, "body must have 128 bytes after its header; got 127"),
        (NPY, saved(some_images(2)) + b"0", 400, "body must have 128 bytes after its header; got 129"),
        ("text/plain", b"0", 415, f"Content-Type must be one of {JSON}, {RAW}, {NPY}; got 'text/plain'"),
        ("", b"0", 415, f"Content-Type must be one of {JSON}, {RAW}, {NPY}; got ''"),
        ("x" * 1000, b"0", 415, f"Content-Type must be one of {JSON}, {RAW}, {NPY}; got 'xxx"),
    ],
)
def test_arrays_and_types(service, content_type, body, status, error):
    answered, answer = service.predict(body, content_type)
    assert (answered, answer["error"][: len(error)]) == (status, error)
    assert len(answer["error"]) < 300


def test_encodings_paths_methods(service):
    status, answer = service.predict(bytes(64), RAW, Content_Encoding="gzip")
    assert status == 415 and answer["error"] == "Content-Encoding must be identity; got 'gzip'"
    status, headers, body = service.ask("GET", "/predict")
    assert (status, headers["Allow"]) == (405, "POST")
    assert json.loads(body) == {"error": "method must be one of POST; got GET"}
    assert service.ask("DELETE", "/health")[0] == 405
    for path in (
        "/nothing",
        "/page.js/",
        "/predict/",
        "/page/../app.py",
        "/%2e%2e/app.py",
        "/app.py",
        "/" + "x" * 5000,
    ):
        status, _, body = service.ask("GET", path)
        assert status == 404 and json.loads(body)["error"].startswith("path must be one of /, /health")


@pytest.mark.parametrize("lengths", ["honest", "chunked"])
def test_a_body_that_is_too_long(service, lengths):
    body = bytes(MOST_BYTES + 1)
    status, headers, answer = service.ask(
        "POST", "/predict", body if lengths == "honest" else iter([body[:-1], body[:1]]), Content_Type=RAW
    )
    assert (status, headers["Connection"]) == (413, "close")
    assert json.loads(answer) == {"error": f"body must have at most {MOST_BYTES} bytes; got more"}
    assert service.predict(" " * (MOST_BYTES - 500) + as_json(some_images(1)))[0] == 200, "what is just not too long"


def answer_to(service, data):
    """The first bytes that come back, if any; the client then goes."""
    with service.raw(data) as connection:
        return connection.recv(1000)


@pytest.mark.parametrize(
    ("length", "status"),
    [(b"10", b"400"), (b"-1", b"400"), (b"1e3", b"400"), (b"9" * 30, b"400"), (b"64\r\nContent-Length: 65", b"400")],
)
def test_lengths_that_lie(service, length, status):
    request = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\nContent-Length: "
    assert answer_to(service, request + length + b"\r\n\r\n" + bytes(64)).split()[1] == status


def test_a_client_that_goes_before_its_body_has_come(service):
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
    for _ in range(20):
        service.raw(head + b'{"images"').close()
    assert service.predict(as_json(some_images(1)))[0] == 200


pieces = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.sampled_from(["images", "x"]), inner, max_size=2),
    max_leaves=20,
)
lengths = st.one_of(
    st.sampled_from(["True", "8", "8L", "0x" + "f" * 5000, "9" * 5000, "1.0", "None", "()", "-0", "'\\d'"]),
    st.integers().map(str),
)
bodies = st.one_of(
    st.binary(max_size=300),
    pieces.map(lambda value: json.dumps({"images": value}).encode()),
    pieces.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=100).map(lambda text: header(text)),
    st.tuples(
        st.lists(lengths, max_size=4).map(lambda items: "(" + "".join(f"{item}, " for item in items) + ")"),
        st.binary(max_size=200),
    ).map(lambda pair: shaped(pair[0]) + pair[1]),
    st.tuples(st.integers(0, 191), st.integers(0, 255)).map(
        lambda flip: bytes(v ^ flip[1] * (i == flip[0]) for i, v in enumerate(saved(some_images(1))))
    ),
)


@settings(max_examples=300, deadline=None)
@given(body=bodies, content_type=st.sampled_from([JSON, RAW, NPY]))
def test_anything_posted(service, body, content_type):
    workers = service.workers()
    status, answer = service.predict(body, content_type)
    assert status in (200, 400, 422), answer
    assert ("digits" if status == 200 else "error") in answer
    assert service.workers() == workers


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), whole=st.booleans())
def test_anything_sent(service, data, whole):
    workers = service.workers()
    with service.raw(data if not whole else b"POST /predict HTTP/1.1\r\n" + data + b"\r\n\r\n"):
        pass
    assert service.workers() == workers


@settings(max_examples=2000, deadline=None)
@given(body=bodies, content_type=st.sampled_from([JSON, RAW, NPY]))
def test_any_body_is_read_or_refused(modules, body, content_type):
    inputs = importlib.import_module("inputs")
    try:
        images = inputs.READERS[content_type](body)
    except inputs.HTTPException as error:
        assert error.status_code in (400, 422) and " must " in error.detail and "; got " in error.detail
    else:
        assert images.dtype == np.uint8 and images.shape[1:] == (8, 8) and images.flags.c_contiguous
