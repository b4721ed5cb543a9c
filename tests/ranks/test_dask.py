"""test_dask: cbn.interop.dask.moments on every scheduler of Dask's and a real cluster of processes."""

import os
import pickle

import ml_dtypes
import numpy as np
import pytest
from populations import assert_close, bits

import cbn
from cbn import accumulating

dask = pytest.importorskip("dask")
pytest.importorskip("distributed")
import dask.array as da  # noqa: E402
from distributed import Client, Event  # noqa: E402

from cbn.interop import dask as on_dask  # noqa: E402
from cbn.interop import dask_tasks  # noqa: E402


def made(shape=(20, 6, 4), offset=0.0, seed=0):
    return np.random.default_rng(seed).normal(offset, 1, shape)


CHUNKS = {
    "even": (5, 6, 4),
    "uneven": ((1, 17, 2), 6, (3, 1)),
    "channels": (7, (1, 3, 2), 3),
    "empty": ((0, 9, 0, 11), 6, 4),
}


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_dtypes_and_chunks(scheduler, dtype, chunks):
    x = made(offset=2.0).astype(dtype)
    assert_close(on_dask.moments(da.from_array(x, CHUNKS[chunks])), x)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_axes(scheduler, axis):
    x = made()
    assert_close(on_dask.moments(da.from_array(x, (7, 4, 3)), axis=axis), x, axis)


def test_known_moments_and_nan(scheduler):
    """0, 1, 2, 3 are exact in any order."""
    x = np.tile(np.arange(4.0), 250).reshape(-1, 1) + np.array([[0.0, np.nan, -2.0]])
    found = on_dask.moments(da.from_array(x, (40, 2)))
    assert found.count == 1000
    np.testing.assert_array_equal(found.mean, [1.5, np.nan, -0.5])
    np.testing.assert_allclose(found.m2, [1250, np.nan, 1250], rtol=1e-14)


def test_unknown_chunks_and_a_huge_offset(scheduler):
    x = made((50, 3), offset=1e6)
    lazy = da.from_array(x, (7, 2))
    assert_close(on_dask.moments(lazy[lazy[:, 0] > 1e6]), x[x[:, 0] > 1e6])


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (3, 2, 0)])
def test_arrays_without_values(scheduler, shape):
    x = np.empty(shape)
    assert bits(on_dask.moments(da.from_array(x, 2))) == bits(cbn.moments(x))


def test_the_same_bits_by_all_schedulers(workers):
    """And as many workers, which finish in any order; and what a user would write without Dask."""
    x = made((64, 6, 50), 3.0).astype(np.float32)
    lazy = da.from_array(x, (5, 4, 50))
    found = {bits(on_dask.moments(lazy))}
    for name in ("synchronous", "threads", "processes"):
        with dask.config.set(scheduler=name):
            found.add(bits(on_dask.moments(lazy)))
    with Client(n_workers=1, threads_per_worker=3, processes=False, dashboard_address="127.0.0.1:0"):
        found.add(bits(on_dask.moments(lazy)))
    found.add(bits(cbn.population_moments(np.split(x, range(5, 64, 5)))))
    assert len(found) == 1


def test_results_are_added_in_order_whatever_is_done_first(workers):
    @dask.delayed
    def batch(n):
        event = Event("last")
        event.wait() if n == 0 else n == 4 and event.set()  # the first one is done after the fifth
        return np.random.default_rng(n).normal(n, 1, (9, 3))

    arrays = [np.random.default_rng(n).normal(n, 1, (9, 3)) for n in range(12)]
    assert bits(on_dask.moments([batch(n) for n in range(12)])) == bits(cbn.population_moments(arrays))


def test_delayed_batches_are_asked_for_as_they_are_needed(scheduler, monkeypatch):
    monkeypatch.setattr(dask.system, "CPU_COUNT", 2)
    given = []

    def batches():
        for n in range(100):
            given.append(n)
            yield dask.delayed(made)((4, 3), seed=n)

    def fails(n):
        raise OSError(f"batch {n}")

    assert on_dask.moments(batches()).count == 400
    given.clear()
    with pytest.raises(OSError, match=r"^batch "):
        on_dask.moments(dask.delayed(fails)(n) for n, _ in enumerate(batches()))
    assert len(given) < 100


def test_batches_before_an_exception_of_the_generator_are_kept(scheduler, tmp_path):
    def batches(at):
        for n in range(30):
            if n == at:
                raise OSError("the disk has gone")
            yield dask.delayed(made)((4, 3), seed=n)

    with pytest.raises(OSError, match="the disk has gone"):
        on_dask.moments(batches(21), checkpoint=tmp_path / "run.npz")
    assert cbn.Moments.load(tmp_path / "run.npz").count == 21 * 4
    assert bits(on_dask.moments(batches(30), checkpoint=tmp_path / "run.npz")) == bits(on_dask.moments(batches(30)))


def test_other_kinds_of_batches(workers):
    x = made()
    expected = bits(cbn.population_moments(np.split(x, 4)))
    assert bits(on_dask.moments(da.from_array(x, (5, 6, 4)).to_delayed().ravel())) == expected
    assert bits(on_dask.moments([workers.submit(np.array, part) for part in np.split(x, 4)])) == expected
    assert bits(on_dask.moments(workers.submit(np.array, part) for part in np.split(x, 4))) == expected


# --- arrays and files ---


@pytest.fixture
def file(tmp_path):
    np.save(tmp_path / "x.npy", made((40, 3, 4)))
    return tmp_path / "x.npy"


VIEWS = [lambda m: m, lambda m: m[3:], lambda m: m[::-2, ::-1, 1:], lambda m: m.T, lambda m: np.asarray(m)[5:9]]


@pytest.mark.parametrize("view", VIEWS, ids=range(len(VIEWS)))
def test_files_and_arrays(scheduler, small, file, view):
    """With the bits of one process, too."""
    mapped = view(np.load(file, mmap_mode="r"))
    expected = bits(cbn.population_moments(mapped))
    assert bits(on_dask.moments(mapped)) == expected
    assert bits(on_dask.moments(np.array(mapped, copy=True, order="K"))) == expected or view is not VIEWS[0]


def test_swapped_and_raw_files(workers, small, tmp_path):
    x = made((40, 3, 4)).astype(">f4")
    (tmp_path / "x.bin").write_bytes(b"head" + x.tobytes())
    mapped = np.memmap(tmp_path / "x.bin", ">f4", "r", 4, x.shape)
    assert_close(on_dask.moments(mapped), x)
    mapped = np.memmap(tmp_path / "y.bin", np.float64, "w+", shape=(100, 3))
    mapped[:] = 7  # before it has been flushed
    assert bits(on_dask.moments(mapped)) == bits(cbn.Moments(100, [7.0] * 3, [0.0] * 3))


def test_workers_open_the_file(workers, small, file):
    mapped = np.load(file, mmap_mode="r")
    big = np.memmap(file, np.uint8, "r")[:3000]
    big = dask_tasks.of_block(big, dask_tasks.File.of(big), 1, "x")
    assert len(pickle.dumps(dict(big.dask))) < 1500
    os.rename(file, f"{file}2")
    with pytest.raises(FileNotFoundError, match=r"x.npy"):
        on_dask.moments(mapped)
    assert cbn.population_moments(mapped).count == 160


@pytest.mark.parametrize("change", ["length", "values", "touched", "later"])
def test_a_file_that_has_changed_is_refused(workers, small, file, monkeypatch, change):
    mapped = np.load(file, mmap_mode="r")
    found = dask_tasks.File.of(mapped)
    if change == "later":
        os.utime(file, (1, 1))
        monkeypatch.setattr(dask_tasks.File, "of", lambda x: found)
    elif change != "touched":
        np.save(f"{file}2.npy", np.ones((40 + (change == "length"), 3, 4)))
        os.replace(f"{file}2.npy", file)
    if change == "touched":
        os.utime(file, (1, 1))  # before the call
        assert on_dask.moments(mapped).count == 160
    else:
        with pytest.raises(ValueError, match=r"^x must be a file that has not changed; got .*x.npy'"):
            on_dask.moments(mapped)


def test_what_the_file_does_not_have_is_sent(workers, small, file):
    mapped = np.load(file, mmap_mode="c")
    mapped[:, 1] = 5
    assert on_dask.moments(mapped).mean[1] == 5
    assert on_dask.moments(np.load(file, mmap_mode="r") * 0).mean[1] == 0


# --- errors ---

X = da.from_array(made(), (5, 3, 4))


def wrong(kind):
    """A Dask array whose third chunk is not what the first ones are."""

    def other(block, block_info=None):
        return kind(block) if block_info[0]["chunk-location"][0] == 2 else block

    return da.from_array(made(), (5, 6, 4)).map_blocks(other, dtype=np.float64)


def broken(block):
    raise OverflowError("no such block")


REFUSED = [
    (lambda: X.astype(int), {}, TypeError, "^x must be float32, float64, float16 or bfloat16; got int64"),
    (lambda: X[0, 0], {}, ValueError, r"^x must have rank 2 or more; got shape \(4,\)"),
    (lambda: X, {"axis": 3}, ValueError, "^axis must lie between -3 and 2 for x of rank 3; got 3"),
    (lambda: X, {"axis": "1"}, TypeError, "^axis must be an integer; got str"),
    (lambda: X, {"progress": None}, TypeError, "^progress must be"),
    (lambda: X, {"checkpoint": "a.pt"}, ValueError, "^checkpoint must end in .npz or .safetensors"),
    (lambda: X[:, X[0, :, 0] > 0], {}, ValueError, "^x must have a known number of channels; got unknown ones"),
    (lambda: wrong(lambda b: b.astype(int)), {}, TypeError, "^part 2 of x must be float32"),
    (lambda: wrong(lambda b: b[:, :2]), {}, ValueError, "^part 2 of x must have 6 channels, as those before; got 2"),
    (lambda: wrong(lambda b: np.ma.masked_less(b, 0)), {}, TypeError, "^part 2 of x must be an array without a mask"),
    (lambda: wrong(broken), {}, OverflowError, "no such block"),
    (lambda: [dask.delayed(made)(), 3], {}, TypeError, r"^x\[1\] must be a dask.delayed batch; got int"),
    (lambda: [dask.delayed(made)(), made()], {}, TypeError, r"^x\[1\] must be a dask.delayed batch; got ndarray"),
    (lambda: [dask.delayed([1.0, 2.0])], {}, ValueError, r"^x\[0\] must have rank 2 or more"),
    (lambda: [dask.delayed((made(), made()))], {}, TypeError, r"^x\[0\] must be an array; got a tuple of arrays"),
    (lambda: dask.delayed(made)(), {}, TypeError, "^x must be a Dask array, an array .* got Delayed"),
    (lambda: "ab", {}, TypeError, "^x must be a Dask array, an array of NumPy, or an iterable of delayed batches"),
    (lambda: [], {}, ValueError, "^x must hold one batch or more; got none"),
]


def test_population_moments_say_who_takes_it():
    with pytest.raises(TypeError, match=r"^batches must be an array .*: cbn.interop.dask.moments takes it$"):
        cbn.population_moments(X)


@pytest.mark.parametrize(("x", "options", "error", "text"), REFUSED, ids=range(len(REFUSED)))
def test_refused(scheduler, x, options, error, text):
    with pytest.raises(error, match=text) as caught:
        on_dask.moments(x(), **options)
    if error is OverflowError:
        assert "part" in caught.value.__notes__[-1] and (
            scheduler != "cluster" or "part 2" in caught.value.__notes__[-1]
        )


# --- checkpoints ---


def stopping(path, at):
    """An array whose chunk of that number raises until there is a file of that name."""

    def block(block, block_info=None):
        if block_info[0]["chunk-location"][0] == at and not path.exists():
            raise OSError("stopped")
        return block

    return da.from_array(made(), (2, 6, 4)).map_blocks(block, dtype=np.float64)


def test_an_interrupted_run_goes_on(scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr(dask.system, "CPU_COUNT", 2)  # else all parts are begun at once
    path, free = tmp_path / "run.npz", tmp_path / "free"
    x = stopping(free, 9)
    with pytest.raises(OSError, match="stopped"):
        on_dask.moments(x, checkpoint=path)
    counted = cbn.Moments.load(path).count // 8
    assert 0 < counted <= 9
    free.touch()
    whole = bits(on_dask.moments(x))
    assert bits(on_dask.moments(x, checkpoint=path)) == whole == bits(cbn.Moments.load(path))
    free.unlink()  # from now on the array could not be computed
    assert bits(on_dask.moments(x, checkpoint=path)) == whole


def test_one_process_and_dask_go_on_with_each_others_runs(tmp_path, monkeypatch, small, workers):
    path, x, part_moments, calls = tmp_path / "run.npz", made(), accumulating._core.part_moments, []

    def interrupted(block, *options):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return part_moments(block, *options)

    with monkeypatch.context() as patched:
        patched.setattr(accumulating._core, "part_moments", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cbn.population_moments(x, checkpoint=path)
    assert 0 < cbn.Moments.load(path).count < 80
    found = on_dask.moments(x, checkpoint=path)
    assert bits(found) == bits(cbn.population_moments(x)) == bits(cbn.population_moments(x, checkpoint=path))


def test_batches_of_another_form_are_refused(scheduler, tmp_path):
    """After a run to the end, too; one process and Dask know the same of them."""
    path, x = tmp_path / "run.npz", made()
    expected = bits(cbn.population_moments([x, x], checkpoint=path))
    assert bits(on_dask.moments([dask.delayed(x)] * 2, axis=-2, checkpoint=path)) == expected
    path.unlink()
    on_dask.moments([dask.delayed(x)] * 2, checkpoint=path)
    assert bits(cbn.population_moments([x, x], checkpoint=path)) == expected
    before = path.read_bytes()
    for other in (x[:, :2], x[:5].astype(np.float16)):
        with pytest.raises(ValueError, match=r"first batch .*; got .* first batch \(20, 6, 4\) of float64"):
            on_dask.moments([dask.delayed(other)] * 2, checkpoint=path)
    with pytest.raises(TypeError, match=r"^x\[0\] must be float32"):
        on_dask.moments([dask.delayed(x.astype(int))] * 2, checkpoint=path)
    assert path.read_bytes() == before


def test_checkpoints_of_other_data_are_refused(scheduler, tmp_path):
    path = tmp_path / "run.npz"
    on_dask.moments(X, checkpoint=path)
    before = path.read_bytes()
    for x, text in (
        (X[:19], r"shape \(19, 6, 4\); got one of data with shape \(20, 6, 4\)"),
        (X.astype(np.float32), "dtype float32; got one of data with dtype float64"),
        (
            X.rechunk((4, 6, 4)),
            r"chunks \(\(4, 4, 4, 4, 4\), \(6,\), \(4,\)\); got one of data with chunks \(\(5, 5, 5, 5\)",
        ),
        ([dask.delayed(made)()], "number of batches 1; got one of data with number of batches 4"),
        (made(), "blocks of .*; got one of other data"),
    ):
        with pytest.raises(ValueError, match=f"^checkpoint must be of data with {text}"):
            on_dask.moments(x, checkpoint=path)
    assert path.read_bytes() == before
