"""inputs: the images of a request, from JSON or arrays; what is wrong with them is said, as an HTTP error."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Annotated, Any

import numpy as np
from network import SIDE
from pydantic import BaseModel, FailFast, Field, ValidationError
from starlette.exceptions import HTTPException

MOST_IMAGES = 1024  # of a request: some milliseconds of work, nearly all to read JSON, in which others wait
MOST_BYTES = 1 << 20  # of a request: so many images in JSON, spaced generously
MOST_SHOWN = 60  # characters of a wrong value
JSON, RAW, NPY = "application/json", "application/octet-stream", "application/x-npy"

# fail fast: one error is answered, so half a million need not be collected
Pixel = Annotated[int, Field(strict=True, ge=0, le=255)]
Row = Annotated[list[Pixel], Field(min_length=SIDE, max_length=SIDE), FailFast()]
Image = Annotated[list[Row], Field(min_length=SIDE, max_length=SIDE), FailFast()]
RULES = (  # by depth
    'be an object {"images": ...}',
    f"be a list of 1 to {MOST_IMAGES} images",
    f"be a list of {SIDE} rows",
    f"be a list of {SIDE} pixels",
    "be an integer from 0 to 255",
)


class Images(BaseModel, extra="ignore"):  # forbidden, each extra key is an error: half a second for 1 MiB of them
    """What is posted as JSON: images of 8 rows of 8 pixels, from 0 (paper) to 255 (ink)."""

    images: Annotated[list[Image], Field(min_length=1, max_length=MOST_IMAGES), FailFast()]


def refused(status: int, name: str, rule: str, got: str) -> HTTPException:
    """An error in the one form that all have."""
    return HTTPException(status, f"{name} must {rule}; got {got}")


def shown(value: Any) -> str:
    """A value of a stranger, in few characters."""
    if isinstance(value, list | dict):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) >= 1 << 64:  # thousands of digits are an error to convert
        return "an integer of more than 64 bits"
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."


def of_json(body: bytes) -> np.ndarray:
    """Images of a JSON body."""
    try:
        rows = chain.from_iterable(Images.model_validate_json(body).images)
        # bytes are made of integers several times as fast as arrays are made of lists in lists
        return np.frombuffer(bytearray(chain.from_iterable(rows)), np.uint8).reshape(-1, SIDE, SIDE)
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
    if error["type"] == "json_invalid":
        raise refused(400, "body", "be JSON", error["ctx"]["error"])
    place = error["loc"]
    name = "body" if not place else str(place[0]) + "".join(f"[{k}]" for k in place[1:])
    got = "nothing" if error["type"] == "missing" else shown(error["input"])
    raise refused(422, name, RULES[len(place)], got)


def of_raw(body: bytes) -> np.ndarray:
    """Images of plain bytes."""
    count, rest = divmod(len(body), SIDE * SIDE)
    if rest or not 1 <= count <= MOST_IMAGES:
        rule = f"have {SIDE * SIDE} bytes for each of 1 to {MOST_IMAGES} images"
        raise refused(422, "body", rule, f"{len(body)} bytes")
    return np.frombuffer(body, np.uint8).reshape(count, SIDE, SIDE)


def array_header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran's order, and dtype."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # that of every array of bytes
        raise ValueError(f"version {version[0]}.{version[1]}")
    with warnings.catch_warnings(action="error"):  # of odd headers: not for the log
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):  # NumPy lets True pass, and any number of digits
        raise ValueError("a shape of other than lengths")
    return shape, fortran, dtype


def of_npy(body: bytes) -> np.ndarray:
    """Images of an array as np.save writes it. Nothing is unpickled, and its size is known before memory is taken."""
    file = io.BytesIO(body)
    try:
        shape, fortran, dtype = array_header(file)
    except Exception as error:  # what is no header makes the parser underneath raise nearly anything
        raise refused(400, "body", "be an array as np.save writes it (version 1.0)", shown(str(error))) from None
    if dtype != np.uint8:
        raise refused(422, "dtype", "be uint8", shown(str(dtype)))
    if len(shape) != 3 or shape[1:] != (SIDE, SIDE) or not 1 <= shape[0] <= MOST_IMAGES:
        raise refused(422, "shape", f"be (N, {SIDE}, {SIDE}) with N from 1 to {MOST_IMAGES}", shown(str(shape)))
    pixels = np.frombuffer(body, np.uint8, offset=file.tell())
    if len(pixels) != shape[0] * SIDE * SIDE:
        raise refused(400, "body", f"have {shape[0] * SIDE * SIDE} bytes after its header", f"{len(pixels)}")
    return np.ascontiguousarray(pixels.reshape(shape, order="F" if fortran else "C"))


READERS = {JSON: of_json, RAW: of_raw, NPY: of_npy}


def reader_for(headers: Mapping[str, str]) -> Callable[[bytes], np.ndarray]:
    """What makes images (N, 8, 8) of uint8 of the body that these headers announce."""
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in READERS:
        raise refused(415, "Content-Type", f"be one of {', '.join(READERS)}", shown(content_type))
    if (encoding := headers.get("content-encoding", "identity")) != "identity":
        raise refused(415, "Content-Encoding", "be identity", shown(encoding))
    return READERS[content_type]
