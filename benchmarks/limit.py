"""limit: the streaming copy and the streaming add of a problem's arrays, each in several variants."""

import ctypes
import functools

import native

# The operation that moves the same arrays: x to y; dy and x to dx.
STREAM = {"forward": "copy", "inference": "copy", "backward": "add"}
VARIANTS = {"copy": ("memcpy", "loop", "stream"), "add": ("loop", "stream")}
# Bytes of x up to which the limit is tried on one thread, too: starting more takes longer than such a copy.
SERIAL_MAX = 4 << 20


@functools.cache
def _library():
    return native.load("limit")


def _call(library, function, arrays, bytes_, threads):
    """A call without conversions of arguments, which cost more than a small copy."""
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    arguments = (*pointers, ctypes.c_size_t(bytes_), ctypes.c_int(threads))
    entry = getattr(library, function)
    entry.restype = None
    return functools.partial(entry, *arguments)


def calls(problem, operation):
    """The variants' calls by name: "limit memcpy" and so on; "/1" marks those on one thread instead of all."""
    library = _library()
    stream = STREAM[operation]
    arrays = problem.out, problem.x, problem.dy
    teams = {problem.threads: ""} | ({1: "/1"} if problem.threads > 1 and problem.x.nbytes <= SERIAL_MAX else {})
    return {
        f"limit {variant}{mark}": _call(library, f"{stream}_{variant}", arrays, problem.x.nbytes, threads)
        for variant in VARIANTS[stream]
        if variant != "stream" or library.have_stream()
        for threads, mark in teams.items()
    }


def call_of_nothing():
    """A call that moves no bytes: what each time of the limit contains besides the streaming."""
    return functools.partial(_library().copy_loop, None, None, None, ctypes.c_size_t(0), ctypes.c_int(1))
