"""test_streaming: population_moments: any cut and layout, what is refused, memory, and runs that stop and go on."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from populations import assert_close, bits
from states import damaged
from test_console import Terminal

import cbn
from cbn import accumulating, blocks, libraries
from cbn.interop import dask

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
SUFFIXES = (".npz", ".safetensors")


@pytest.fixture
def small(monkeypatch):
    """Blocks of a few hundred bytes."""
    monkeypatch.setattr(blocks, "LARGEST", 500)


@pytest.fixture
def always(monkeypatch):
    """A checkpoint is written after every batch."""
    monkeypatch.setattr(accumulating, "EVERY", 0.0)


def made(shape=(20, 3, 4), offset=0.0, seed=0):
    return np.random.default_rng(seed).normal(offset, 1, shape)


def test_known_moments(small):
    """1000 samples of 0, 1, 2, 3: exact in any order."""
    x = np.tile(np.arange(4.0), 250).reshape(-1, 1) + np.array([[0.0, 7.0, -2.0]])
    found = cbn.population_moments(x)
    assert found.count == 1000
    np.testing.assert_array_equal(found.mean, [1.5, 8.5, -0.5])
    np.testing.assert_allclose(found.m2, 1250, rtol=1e-14)
    assert blocks.number(x.shape, blocks.cut(x, 1)) > 40


LAYOUTS = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "reversed": lambda x: np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1],
    "strided": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
}


# ml_dtypes has no swapped bfloat16
PAIRS = [(t, name) for t in DTYPES for name in LAYOUTS if (t, name) != (ml_dtypes.bfloat16, "swapped")]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(("dtype", "layout"), PAIRS, ids=lambda v: v if isinstance(v, str) else np.dtype(v).name)
def test_arrays(small, dtype, axis, layout):
    x = LAYOUTS[layout](made(offset=3.0).astype(dtype))
    lengths = blocks.cut(x, axis % 3)
    assert lengths[axis] == x.shape[axis] and np.prod(lengths) * x.itemsize <= 500
    assert_close(cbn.population_moments(x, axis=axis), x, axis)


def test_a_huge_sample_is_cut(small):
    x = made((2, 3, 50, 60))
    assert blocks.cut(x, 1) == (1, 3, 1, 20)
    assert_close(cbn.population_moments(x), x)
    assert blocks.cut(made((4, 100)), 1) == (1, 100)  # one position is never cut


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 3, 5), (3, 2, 0)])
def test_arrays_without_values(shape):
    assert bits(cbn.population_moments(np.empty(shape))) == bits(cbn.moments(np.empty(shape)))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.sampled_from([0.0, -3.0, 1e6]), st.integers(0, 99))
@settings(deadline=None, max_examples=100)
def test_any_cut_gives_the_moments_of_the_whole(sizes, offset, seed):
    x = made((sum(sizes), 2, 3), offset, seed)
    ends = np.cumsum(sizes)[:-1]
    assert_close(cbn.population_moments(iter(np.split(x, ends))), x)


def test_nan_stays_in_its_channel(small):
    x = made()
    x[5, 1, 2] = np.nan
    found = cbn.population_moments(x)
    assert np.isnan([found.mean[1], found.m2[1]]).all()
    assert_close(cbn.population_moments(x[:, ::2]), x[:, ::2])


def test_the_same_bits_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(blocks, "LARGEST", 1 << 18)
    x = made((64, 16, 32, 32)).astype(np.float32)
    results = []
    for threads in (1, 2, 5):
        with cbn.num_threads(threads):
            results.append(bits(cbn.population_moments(x)))
    assert results[0] == results[1] == results[2]


def test_a_generator_is_read_once_and_one_batch_at_a_time():
    alive, most = set(), 0

    class Batch(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def batches():
        nonlocal most
        for n in range(10):
            batch = made((4, 3), seed=n).view(Batch)
            alive.add(id(batch))
            yield batch
            del batch
            most = max(most, len(alive))

    generator = batches()
    assert cbn.population_moments(generator).count == 40
    assert next(generator, None) is None and most <= 2


def test_batches_of_lists_and_of_several_dtypes():
    found = cbn.population_moments([[[1.0, 2.0]], np.array([[3, 6]], np.float16)])
    assert bits(found) == bits(cbn.Moments(2, [2.0, 4.0], [2.0, 8.0]))


X = made()
REFUSED = [
    (X.astype(int), {}, TypeError, "^batches must be float32, float64, float16 or bfloat16; got int64"),
    (X[0, 0], {}, ValueError, r"^batches must have rank 2 or more; got shape \(4,\)"),
    (X, {"axis": 3}, ValueError, "^axis must lie between -3 and 2 for x of rank 3; got 3"),
    (X, {"axis": 1.0}, TypeError, "^axis must be an integer; got float"),
    (X, {"progress": "no"}, TypeError, "^progress must be"),
    (X, {"checkpoint": 1}, TypeError, "^checkpoint must be a str or path-like; got int"),
    (X, {"checkpoint": "a.pt"}, ValueError, r"^checkpoint must end in .npz or .safetensors; got 'a.pt'"),
    (X, {"checkpoint": "none/a.npz"}, FileNotFoundError, "none/a.npz"),
    ([X, X.astype(int)], {}, TypeError, r"^batches\[1\] must be float32, float64, float16 or bfloat16; got int64"),
    ([X, X[:, :2]], {}, ValueError, r"^batches\[1\] must have 3 channels, as those before; got 2"),
    ([X, [[1.0], [2.0, 3.0]]], {}, TypeError, r"^batches\[1\] must be an array of real numbers; got list"),
    ([X, np.ma.masked_less(X, 0)], {}, TypeError, r"^batches\[1\] must be an array without a mask"),
    (np.ma.masked_less(X, 0), {}, TypeError, "^block 0 of batches must be an array without a mask"),
    ([X, (X, X)], {}, TypeError, r"^batches\[1\] must be an array; got a tuple of arrays"),
    ([X, X[0, 0]], {}, ValueError, r"^batches\[1\] must have rank 2 or more"),
    ([X, X[0]], {"axis": 2}, ValueError, r"^axis must lie between -2 and 1 for x of rank 2; got 2 \(in batches\[1\]\)"),
    ([], {}, ValueError, "^batches must hold one batch or more; got none"),
    ("ab", {}, TypeError, "^batches must be an array of NumPy, or an iterable of arrays; got str"),
    ({}, {}, TypeError, "iterable of arrays; got dict"),
    ("x.npy", {}, TypeError, r"iterable of arrays; got str: open it, as by np.load\(path, mmap_mode=\"r\"\)"),
    (3, {}, TypeError, "iterable of arrays; got int"),
]


@pytest.mark.parametrize(("batches", "options", "error", "text"), REFUSED, ids=lambda v: v if type(v) is str else "")
def test_refused(batches, options, error, text):
    with pytest.raises(error, match=text):
        cbn.population_moments(batches, **options)


def test_dask_is_asked_for_where_it_is_missing(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "dask"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"dask must be installed \(pip install 'cbn\[dask\]'\); got no such module"):
        dask.moments(X)


# --- checkpoints ---


class Stops:
    """Batches of which one raises, the first time."""

    def __init__(self, at, error=KeyboardInterrupt):
        self.at, self.error, self.read = at, error, []

    def __iter__(self):
        for n in range(8):
            if n == self.at:
                self.at = None
                raise self.error("stop")
            self.read.append(n)
            yield made(seed=n)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, GeneratorExit])
@pytest.mark.parametrize("at", [0, 1, 5])
def test_an_interrupted_run_goes_on(tmp_path, at, error, suffix):
    path, batches = tmp_path / f"run{suffix}", Stops(at, error)
    with pytest.raises(error, match="stop"):
        cbn.population_moments(batches, checkpoint=path)
    assert path.exists() is (at > 0)
    if at:
        assert bits(cbn.Moments.load(path)) == bits(cbn.population_moments([made(seed=n) for n in range(at)]))
    found = cbn.population_moments(batches, checkpoint=path)
    assert bits(found) == bits(cbn.population_moments(Stops(None))) == bits(cbn.Moments.load(path))
    assert os.listdir(tmp_path) == [path.name]


def test_an_interrupted_array_goes_on_and_reads_no_block_twice(tmp_path, monkeypatch, small):
    path, x, read = tmp_path / "run.npz", made(), []
    part_moments = accumulating._core.part_moments

    def interrupted(block, *options):
        read.append(np.size(block) and block[0, 0, 0])
        if len(read) == 4:
            raise KeyboardInterrupt
        return part_moments(block, *options)

    whole = bits(cbn.population_moments(x))
    monkeypatch.setattr(accumulating._core, "part_moments", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cbn.population_moments(x, checkpoint=path)
    counted = list(read)
    assert bits(cbn.population_moments(x, checkpoint=path)) == whole
    again = [value for value in read[len(counted) :] if value]
    assert again[0] == counted[-1] and not set(again[1:]) & set(counted)


@pytest.mark.parametrize("batches", [lambda x: x, lambda x: [x, x], lambda x: iter([x, x])])
def test_a_finished_run_reads_no_more_than_one_batch(tmp_path, batches):
    path = tmp_path / "run.npz"
    found = cbn.population_moments(batches(X), checkpoint=path)
    before, unread = path.stat(), batches(np.full_like(X, 9))
    assert bits(cbn.population_moments(unread, checkpoint=path)) == bits(found)
    assert path.stat() == before
    assert not hasattr(unread, "__next__") or len(list(unread)) == 1


@pytest.mark.parametrize("kind", [iter, list, tuple])
@pytest.mark.parametrize("stop", [1, 3])
def test_batches_of_another_form_are_refused(tmp_path, kind, stop):
    """After a run that was stopped, and after one to the end."""
    path = tmp_path / "run.npz"

    class Stopping(kind if kind is not iter else list):
        def __iter__(self):
            yield from super().__iter__() if stop == 3 else [X]
            if stop == 1:
                raise OSError

    with nullcontext() if stop == 3 else pytest.raises(OSError):
        cbn.population_moments(iter(Stopping([X] * 3)) if kind is iter else Stopping([X] * 3), checkpoint=path)
    before = path.read_bytes()
    for other in (X[:19], X[:, :2], X.astype(np.float16), X[..., 0]):
        with pytest.raises(ValueError, match=r"with first batch .*; got .* first batch \(20, 3, 4\) of float64$"):
            cbn.population_moments(kind([other] * 3), checkpoint=path)
    with pytest.raises(TypeError, match=r"^batches\[0\] must be float32"):
        cbn.population_moments(kind(["junk"] * 3), checkpoint=path)
    with pytest.raises(
        ValueError, match=r"^batches must hold one batch or more|^checkpoint must be of data with number"
    ):
        cbn.population_moments(kind([]), checkpoint=path)
    assert path.read_bytes() == before
    assert cbn.population_moments(kind([X] * 3), axis=-2, checkpoint=path).count == 240  # the same axis


def test_a_checkpoint_is_written_when_it_is_due(tmp_path, monkeypatch):
    now, saved, path = 0.0, [], tmp_path / "run.npz"
    monkeypatch.setattr(accumulating.time, "monotonic", lambda: now)

    def batches():
        nonlocal now
        for _ in range(7):
            now += 4
            saved.append(cbn.Moments.load(path).count // X[:, 0].size if path.exists() else 0)
            yield X

    cbn.population_moments(batches(), checkpoint=path)
    assert saved == [0, 0, 0, 3, 3, 3, 6] and cbn.Moments.load(path).count == 7 * X[:, 0].size


def test_an_error_is_told_even_if_the_checkpoint_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"

    def full(*arguments):
        raise OSError("no space")

    monkeypatch.setattr(cbn.Moments, "_save", full)
    with pytest.raises(KeyboardInterrupt) as caught:
        cbn.population_moments(Stops(3), checkpoint=path)
    assert caught.value.__notes__ == ["checkpoint could not be written: no space"]
    with pytest.warns(RuntimeWarning, match="^checkpoint could not be written: no space"):
        assert bits(cbn.population_moments(X, checkpoint=path)) == bits(cbn.population_moments(X))


def test_a_checkpoint_that_could_not_be_written_is_tried_again(tmp_path, monkeypatch, always):
    path, save, calls = tmp_path / "run.npz", cbn.Moments._save, []

    def full_at_first(self, *arguments):
        calls.append(1)
        if len(calls) < 3:
            raise OSError("no space")
        save(self, *arguments)

    monkeypatch.setattr(cbn.Moments, "_save", full_at_first)
    with pytest.warns(RuntimeWarning, match="no space") as caught:
        found = cbn.population_moments([X] * 5, checkpoint=path)
    assert len(caught) == 2 and bits(cbn.Moments.load(path)) == bits(found)


KILLED = """
import sys, numpy as np, cbn
from cbn import accumulating
accumulating.EVERY = 0.0
def batches():
    for n in range(8):
        print(n, flush=True)
        if n == int(sys.argv[2]):
            sys.stdin.read()
        yield np.random.default_rng(n).normal(0, 1, (20, 3, 4))
cbn.population_moments(batches(), checkpoint=sys.argv[1])
"""


def test_a_killed_process_goes_on(tmp_path):
    path = tmp_path / "run.npz"
    command = [sys.executable, "-c", KILLED, path]
    with subprocess.Popen([*command, "5"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if int(line) == 5:
                process.kill()
    assert cbn.Moments.load(path).count == 5 * 80
    subprocess.run([*command, "-1"], check=True, stdout=subprocess.DEVNULL)
    assert bits(cbn.Moments.load(path)) == bits(cbn.population_moments(Stops(None)))


def test_checkpoints_of_other_data_are_refused(tmp_path, small):
    path = tmp_path / "run.npz"

    def refused(text, batches, **options):
        before = path.read_bytes()
        with pytest.raises(ValueError, match=f"^checkpoint must {text}"):
            cbn.population_moments(batches, checkpoint=path, **options)
        assert path.read_bytes() == before

    cbn.population_moments(X, checkpoint=path)
    shape = r"be of data with shape \(19, 3, 4\); got one of data with shape \(20, 3, 4\)"
    refused(shape, X[:19])
    refused("be of data with dtype float32; got one of data with dtype float64", X.view(np.float32)[..., ::2])
    refused("be of data with", X, axis=2)
    refused("be of data with", np.asfortranarray(X))
    refused("be of data with number of batches 2; got one of data with number of batches 4", [X, X])
    refused("be of data with first batch .*; got one of other data", [X] * 4)
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        cbn.population_moments(Stops(5), checkpoint=path)
    refused(r"be of data with first batch \(2, 3\) of float64; got .* first batch \(20, 3, 4\)", iter([X[0, :, :2].T]))
    refused(r"be of data with first batch \(20, 3, 4\) of float16", iter([X.astype(np.float16)]))
    refused("be of data with channel axis 2", Stops(None), axis=2)
    refused("be of data with number of batches 1; got one of data with number of batches unknown", [X])
    refused("have counted at most 3 batches, all that there are; got 5", iter([X, X, X]))
    cbn.moments(X).save(path)
    refused("be a file that population_moments or cbn.interop.dask.moments began; got moments that say nothing", X)
    cbn.BatchNorm(3).save(path)
    refused("be a file that Moments.save wrote; got 'run.npz'", X)


def with_run(path, **changes):
    """A checkpoint as somebody else may have written it."""
    with np.load(path) as archive:
        arrays = dict(archive)
    meta = json.loads(arrays.pop("meta").tobytes())
    meta["run"] = {**meta["run"], **changes}
    np.savez(path, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"counted": 9}, "end after 4 batches; got one with 9"),
        ({"counted": 3}, "end after 4 batches; got one with 3, with an end"),
        ({"finished": False}, "end after 4 batches; got one with 4, without an end"),
        ({"counted": -1}, "be a file that population_moments"),
        ({"counted": 2.0}, "be a file that population_moments"),
        ({"counted": True}, "be a file that population_moments"),
        ({"finished": None}, "be a file that population_moments"),
        ({"data": []}, "be a file that population_moments"),
        ({"data": {"shape": [[[[]]]]}}, "be a file that population_moments"),
        ({"more": 1}, "be a file that population_moments"),
        ({"data": {}}, r"be of data with shape .*; got one of other data$"),
        ({"data": {"shape": "\x1b[2J" * 500}}, r"be of .* with shape (\?\[2J){75}\.\.\.$"),
    ],
)
def test_hostile_checkpoints_are_refused(tmp_path, small, changes, text):
    path = tmp_path / "run.npz"
    cbn.population_moments(X, checkpoint=path)
    with_run(path, **changes)
    with pytest.raises(ValueError, match=f"^checkpoint must {text}"):
        cbn.population_moments(X, checkpoint=path)


def test_channels_of_a_hostile_checkpoint(tmp_path, small):
    path = tmp_path / "run.npz"
    cbn.population_moments(X, checkpoint=path)
    with_run(path, counted=2, finished=False)
    with np.load(path) as archive:
        arrays = dict(archive)
    meta = {**json.loads(arrays.pop("meta").tobytes()), "channels": 2}
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(path, meta=text, **{name: values[:2] for name, values in arrays.items()})
    with pytest.raises(ValueError, match="checkpoint must have 3 channels; got 2"):
        cbn.population_moments(X, checkpoint=path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_damaged_byte_of_a_checkpoint_is_refused_or_harmless(tmp_path, suffix):
    path, x = tmp_path / f"run{suffix}", made((4, 1))
    cbn.population_moments(x, checkpoint=path)
    for bad in damaged(path.read_bytes()):
        path.write_bytes(bad)
        try:
            assert cbn.population_moments(x, checkpoint=path).mean.shape == (1,)
        except ValueError as error:
            assert str(error).startswith("checkpoint must")


# --- memory and progress ---

LIMITED = """
import resource, sys, numpy as np, cbn
x = np.memmap(sys.argv[1], ">f4", "r", shape=(3, 120 << 20 >> 2)).T.reshape(-1, 3)
cbn.population_moments(np.memmap(sys.argv[1], "f4", "r", shape=(1, 3, 1000)))  # what it needs once
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + (200 << 20),) * 2)
try:
    cbn.moments(x)
    sys.exit("in memory it must not fit")
except MemoryError:
    print(cbn.population_moments(x).count)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit memory so")
def test_memory_is_bounded(tmp_path):
    """A byte-swapped file of 360 MB, transposed, with 200 MB to work in: copied whole, it does not fit."""
    path = tmp_path / "x.bin"
    with open(path, "wb") as file:
        file.truncate(360 << 20)  # zeros that take no room on the disk
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{120 << 20 >> 2}\n"), done.stderr


def test_progress_goes_on_where_the_run_stopped(tmp_path, monkeypatch, small, always):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    path = tmp_path / "run.npz"
    cbn.population_moments(X, checkpoint=path)
    with_run(path, counted=2, finished=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    cbn.population_moments(X, checkpoint=path)
    assert "moments: " in sys.stderr.getvalue() and "2/4" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", Terminal())
    cbn.population_moments([X, X], progress=False)
    assert sys.stderr.getvalue() == ""
