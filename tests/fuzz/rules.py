"""rules: what must hold of every call, whatever it was given: which errors come out, and what memory was written."""

import re
import warnings

import numpy as np

RAISED = object()
NAME = r"[A-Za-z_][\w.]*(\[[^]]*\])*( and [a-z_]+)?|the [a-z]+"
TEXTS = [
    rf"({NAME}) must ",
    "Expected more than 1 value per channel when training, got input size ",  # torch's
    r"expected \d\w*( or \d\w*)* input \(got \d+D input\)$",  # torch's
]
TEXT = re.compile("|".join(TEXTS))


class Broken(Exception):
    """A rule that a call broke."""


def fits(error):
    """Whether a call may raise this. MemoryError is for numbers of channels that no memory holds."""
    if isinstance(error, MemoryError):
        return True
    return type(error) in (TypeError, ValueError, RuntimeError) and bool(TEXT.match(str(error)))


def state_of(layer):
    """All of a layer's attributes: arrays to the bit, and other things by identity."""
    return {
        name: (id(value), value.tobytes()) if isinstance(value, np.ndarray) else id(value)
        for name, value in {"_collect": None, **vars(layer)}.items()
    }


def _marked(view, buffer):
    """Which bytes of the buffer the view has."""
    marks = np.zeros(buffer.size, bool)
    offset = view.__array_interface__["data"][0] - buffer.__array_interface__["data"][0]
    if view.size:
        shape, strides = (*view.shape, view.itemsize), (*view.strides, 1)
        np.ndarray(shape, bool, marks, offset, strides)[...] = True
    return marks


class Rules:
    """Holds calls to the rules; `source` knows all arrays that it made."""

    def __init__(self, source, trace=None):
        self._source, self._trace = source, trace

    def call(self, name, function, *args, written=(), of=None, **kwargs):
        """What the function returns, or RAISED: then nothing may have changed, and nothing of the layer `of`; else only
        the `written` arrays.
        """
        before = [(buffer, buffer.copy()) for buffer in {id(b): b for _, b in self._source.arrays}.values()]
        state = None if of is None else state_of(of)
        if self._trace:
            self._trace(name, args, kwargs)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result = function(*args, **kwargs)
        except Exception as error:
            if not fits(error):
                raise Broken(f"{name} must raise what is documented; got {type(error).__name__}: {error}") from error
            if state is not None and state_of(of) != state:
                raise Broken(f"{name} must leave the layer as it was; got another after: {error}") from error
            result, written, reason = RAISED, (), error
        else:
            reason = "the call returned"
        for buffer, old in before:
            changed = buffer != old
            for view in written:
                changed &= ~self._of(view, buffer)
            if changed.any():
                raise Broken(f"{name} must write nothing but its outputs; got other bytes, where {reason}")
        return result

    def _of(self, view, buffer):
        """The bytes of the buffer that are the view's."""
        if not isinstance(view, np.ndarray) or not np.may_share_memory(view, buffer):
            return np.zeros(buffer.size, bool)
        return _marked(view, buffer)


def must(condition, text):
    if not condition:
        raise Broken(text)
