"""test_hazards: arrays of every kind for each argument of each function: the bits of plain ones, or refused."""

import numpy as np
import pytest
from cases import misaligned
from hazards import CALLS, bits, fresh

ARGUMENTS = [(call, name) for call, (_, arguments, _) in CALLS.items() for name in arguments]
READ = [(call, name) for call, name in ARGUMENTS if name not in CALLS[call][2]]
WRITTEN = [(call, name) for call, name in ARGUMENTS if name in CALLS[call][2]]


class Own(np.ndarray):
    """Somebody's subclass, which will not be combined with anything."""

    __array_priority__ = 1e6

    def __array_ufunc__(self, *args, **kwargs):
        raise AssertionError("a subclass's own arithmetic was used")


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def mapped(array, folder):
    copy = np.memmap(folder / "array", array.dtype, "w+", shape=array.shape)
    copy[...] = array
    return copy


def of_record(array):
    """A field of a record array, at an odd place in each record."""
    records = np.recarray(array.shape, np.dtype([("flag", "u1"), ("value", array.dtype), ("rest", "u1")]))
    records.value = array
    return records.value


def between(array):
    """Each second value of a larger array, from its end."""
    larger = np.zeros([2 * size for size in array.shape], array.dtype)
    view = larger[tuple(slice(None, None, -2) for _ in array.shape)]
    view[...] = array
    return view


# what is read as if it were plain
SAME = {
    "read-only": lambda array, _: read_only(array),
    "misaligned": lambda array, _: misaligned(array),
    "byte-swapped": lambda array, _: array.astype(array.dtype.newbyteorder()),
    "Fortran": lambda array, _: np.asfortranarray(array),
    "between": lambda array, _: between(array),
    "memmap": mapped,
    "subclass": lambda array, _: array.view(Own),
    "record": lambda array, _: of_record(array),
}
REFUSED = {
    "masked": (np.ma.masked_array, TypeError),
    "object": (lambda array: array.astype(object), TypeError),
    "complex": (lambda array: array.astype(complex), TypeError),
    "text": (lambda array: array.astype(str), TypeError),
    "times": (lambda array: array.astype("m8[s]"), TypeError),
    "dates": (lambda array: array.astype("i8").astype("M8[D]"), TypeError),
    "structured": (lambda array: np.zeros(array.shape, [("a", "f4")]), TypeError),
    "flags": (lambda array: array > 0 if array.dtype != bool else array * 1, TypeError),
    "integers": (lambda array: array.astype(np.int32), TypeError),
    "unsigned": (lambda array: array.astype(np.uint16), TypeError),
    "number": (lambda array: array.flat[0], (TypeError, ValueError)),
    "zero-dimensional": (lambda array: np.array(array.flat[0]), (TypeError, ValueError)),
    "longer": (lambda array: np.concatenate([array, array]), ValueError),
    "shorter": (lambda array: array[:-1].copy(), ValueError),
    "deeper": (lambda array: array[..., None], ValueError),
}
# what is taken nevertheless: whole numbers where they mean no more than themselves, what broadcasts, other batches
TAKEN = {
    "mask": {"number", "zero-dimensional"},
    "sample_weight": {"number", "zero-dimensional", "integers", "unsigned", "deeper"},
    "update_running mean": {"integers", "unsigned"},
    "update_running m2": {"integers", "unsigned"},
    "normalize_images mean": {"integers", "unsigned"},
    "normalize_images std": {"integers", "unsigned"},
    "fold_conv weight": {"deeper"},
    "fold_conv bias": {"integers", "unsigned"},
    "fold_linear bias": {"integers", "unsigned"},
    "recompute x": {"longer", "shorter", "deeper"},
    **{f"load_state_dict {name}": {"integers", "unsigned"} for name in CALLS["load_state_dict"][1]},
}


@pytest.mark.parametrize(("call", "name"), READ)
def test_read_as_if_plain(call, name, tmp_path):
    function, arguments, _ = CALLS[call]
    expected = bits(function(**fresh(arguments)))
    for kind, changed in SAME.items():
        given = fresh(arguments)
        given[name] = changed(given[name], tmp_path)
        before = given[name].tobytes()
        assert bits(function(**given)) == expected, kind
        assert given[name].tobytes() == before, kind


@pytest.mark.parametrize(("call", "name"), ARGUMENTS)
def test_refused(call, name):
    """And nothing has been written then."""
    function, arguments, written = CALLS[call]
    taken = TAKEN.get(name, set()) | TAKEN.get(f"{call} {name}", set())
    if name == "dy" and call.startswith("layer"):
        written = ()  # by backward, which has no out here
    for kind, (changed, error) in REFUSED.items():
        given = fresh(arguments)
        given[name] = changed(given[name])
        if kind in taken:
            function(**given)
            continue
        before = [np.asarray(given[name]).tobytes() for name in written]
        with pytest.raises(error, match=r"must|input size"):
            function(**given)
        assert [np.asarray(given[name]).tobytes() for name in written] == before, kind


WRONG_PLACES = {
    "read-only": lambda array, _: read_only(array),
    "misaligned": lambda array, _: misaligned(array),
    "byte-swapped": lambda array, _: array.astype(array.dtype.newbyteorder()),
    "between": lambda array, _: between(array),
    "one value": lambda array, _: np.lib.stride_tricks.as_strided(array, strides=[0] * array.ndim),
    "windows": lambda array, _: np.lib.stride_tricks.as_strided(array, strides=[array.itemsize] * array.ndim),
    "list": lambda array, _: array.tolist(),
}


@pytest.mark.parametrize(("call", "name"), WRITTEN)
def test_places_that_cannot_be_written(call, name, tmp_path):
    function, arguments, written = CALLS[call]
    for kind, changed in WRONG_PLACES.items():
        given = fresh(arguments)
        if kind == "windows" and given[name].ndim == 1:
            continue  # which are no windows
        given[name] = changed(given[name], tmp_path)
        before = [np.asarray(given[name]).tobytes() for name in written]
        with pytest.raises((TypeError, ValueError), match=f"{name} must"):
            function(**given)
        assert [np.asarray(given[name]).tobytes() for name in written] == before, kind


@pytest.mark.parametrize(("call", "name"), WRITTEN)
def test_places_that_can(call, name, tmp_path):
    function, arguments, _ = CALLS[call]
    expected = bits(function(**fresh(arguments)))
    for kind in ("memmap", "subclass"):
        given = fresh(arguments)
        given[name] = SAME[kind](given[name], tmp_path)
        function(**given)
        np.testing.assert_array_equal(
            np.asarray(given[name]), np.asarray(written_of(call, name, arguments)), err_msg=kind
        )
    assert bits(function(**fresh(arguments))) == expected


def written_of(call, name, arguments):
    given = fresh(arguments)
    CALLS[call][0](**given)
    return given[name]


PAIRS = [(call, name, other) for call, name in WRITTEN for other in CALLS[call][1] if other not in (name, "dy")]
PAIRS += [("backward", "out", "dy")]  # the dy of layers is read later


@pytest.mark.parametrize(("call", "name", "other"), PAIRS)
def test_overlap(call, name, other):
    """What is written may begin where another argument does, or anywhere in it: refused, or the bits of copies."""
    function, arguments, _ = CALLS[call]
    expected = bits(function(**fresh(arguments)))
    size, itemsize = arguments[name].nbytes, arguments[name].itemsize
    for shift in {0, itemsize, size // 2 // itemsize * itemsize, -itemsize}:
        buffer = np.zeros(2 * (size + arguments[other].nbytes), np.uint8)
        given = fresh(arguments)
        start = arguments[other].nbytes // itemsize * itemsize
        given[name] = placed(buffer, start, arguments[name])
        given[other] = placed(buffer, start + shift, arguments[other])
        if not (np.array_equal(given[name], arguments[name]) or name == "out"):
            continue  # which cannot have both
        before = buffer.tobytes()
        try:
            got = bits(function(**given))
        except ValueError as error:
            assert "must" in str(error) and buffer.tobytes() == before
        except RuntimeError as error:  # of a layer's backward
            assert "overwrote x" in str(error) and other == "x" and shift == 0
        else:
            assert got == expected, shift


def placed(buffer, start, array):
    view = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view
