"""test_torch_memory: memory of results is reused once nobody refers to it, never before, and is not hoarded."""

import gc
import mmap
import threading

import numpy as np
import pytest
import threads

torch = pytest.importorskip("torch")
own = pytest.importorskip("cbn.interop.torch")
memory = pytest.importorskip("cbn.interop.torch_memory")

LEAST = memory.LEAST


def address(array):
    """Of the memory that the array lies in, wherever it starts there."""
    return array.base.ctypes.data


def taken(size):
    """What a result of that size takes."""
    return memory._rounded(size + memory.STARTS * memory.STEP)


def idle(store):
    return memory._total(store._unmarked) + memory._total(store._marked)


def test_memory_comes_back_once_the_last_view_is_gone():
    store = memory.Memory()
    array = store.bytes(LEAST)
    first = address(array)
    views = [
        lambda a: a[4:].reshape(-1, 4).T,
        lambda a: a.view(np.float32)[::2],
        torch.from_numpy,
        lambda a: torch.from_numpy(a).untyped_storage(),
        lambda a: torch.empty(0).set_(torch.from_numpy(a).untyped_storage(), 0, (3, 5), (5, 1))[1:],
        lambda a: torch.from_numpy(a).view(-1, 2).movedim(1, 0).numpy(),
        memoryview,
    ]
    for view in views:
        alive, array = view(array), None
        gc.collect()
        array = store.bytes(LEAST)
        assert address(array) != first
        del alive, array
        gc.collect()
        array, other = store.bytes(LEAST), store.bytes(LEAST)
        assert first in (address(array), address(other))
        array = array if address(array) == first else other
        del other


def test_sizes_nearly_the_same_share():
    store = memory.Memory()
    first = address(store.bytes(35 * LEAST))
    assert address(store.bytes(34 * LEAST)) == first
    assert address(store.bytes(70 * LEAST)) != first
    for size in range(LEAST, 100 * LEAST, 54321):
        assert size <= memory._rounded(size) <= size * 9 / 8


def test_results_start_at_different_places():
    store = memory.Memory()
    arrays = [store.bytes(LEAST) for _ in range(memory.STARTS)]
    starts = {array.ctypes.data - address(array) for array in arrays}
    assert len(starts) == memory.STARTS and all(start % 64 == 0 for start in starts)
    assert len({start // 64 % 64 for start in starts}) == memory.STARTS  # lines of the first-level cache
    assert {array.size for array in arrays} == {LEAST}


def test_no_more_idle_than_twice_what_was_in_use():
    store = memory.Memory()
    for factor in (1, 2, 4, 8, 3, 5, 7, 1):
        store.bytes(factor * LEAST)
        assert idle(store) <= 2 * taken(8 * LEAST)
    several = [store.bytes(LEAST) for _ in range(60)]
    del several
    assert 60 * taken(LEAST) <= idle(store) <= 120 * taken(LEAST)
    assert memory._total(store._unmarked) <= memory.UNMARKED and store._marked
    assert memory._total(store._in_use) == 0
    store.clear()
    assert idle(store) == 0
    for factor in (1, 2, 3, 4):
        store.bytes(factor * LEAST)
    assert idle(store) <= 2 * taken(4 * LEAST)  # what was in use at once is counted anew


def test_marked_memory_is_taken_again():
    store = memory.Memory()
    size = 2 * memory.UNMARKED
    array = store.bytes(size)
    array[:] = 7
    first = address(array)
    del array
    assert store._marked and not store._unmarked
    assert address(store.bytes(size)) == first


def test_threads_share_one_store():
    """No memory is lent twice at a time."""
    store, errors, alive, lock = memory.Memory(), [], set(), threading.Lock()
    barrier = threading.Barrier(6)

    def work():
        barrier.wait()
        for step in range(300):
            arrays = [store.bytes(LEAST * (1 + (step + k) % 2)) for k in range(3)]
            with lock:
                own_addresses = {address(array) for array in arrays}
                if len(own_addresses) < 3 or own_addresses & alive:
                    errors.append(step)
                alive.update(own_addresses)
            with lock:
                alive.difference_update(own_addresses)
            del arrays

    threads.run(work, [()] * 6)
    assert not errors and not store._in_use


def test_no_memory_left(monkeypatch):
    """Idle memory is given up first; then it is a MemoryError."""
    store = memory.Memory()
    store.bytes(3 * LEAST)
    calls, mapped = [], memory._mapped

    def fails(size):
        calls.append(idle(store))
        if len(calls) != 2:
            raise OSError(12, "Cannot allocate memory")
        return mapped(size)

    monkeypatch.setattr(memory, "_mapped", fails)
    assert store.bytes(LEAST).size == LEAST and calls == [taken(3 * LEAST), 0]
    with pytest.raises(MemoryError, match="no memory for a result of"):
        store.bytes(5 * LEAST)


def test_systems_that_know_no_advice(monkeypatch):
    for name in ("MADV_HUGEPAGE", "MADV_FREE"):
        monkeypatch.delattr(mmap, name)
    store = memory.Memory()
    first = address(store.bytes(2 * memory.UNMARKED))
    assert address(store.bytes(2 * memory.UNMARKED)) == first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_results_stay_as_they_are(dtype, layout):
    """Results of many calls, kept in part, are what fresh calls compute."""
    x = torch.randn(4, 32, 100, 100).to(dtype).contiguous(memory_format=layout)
    layer, kept = own.BatchNorm2d(32), []
    for step in range(8):
        inputs = (x * (step + 1)).requires_grad_()
        y = layer(inputs)
        y.backward(x)
        kept.append((y.detach()[1:], y.detach()[1:].clone(), inputs.grad, inputs.grad.clone()))
        if step % 3 == 2:
            del kept[0]
        del y, inputs
    for y, y_copy, dx, dx_copy in kept:
        assert torch.equal(y, y_copy) and torch.equal(dx, dx_copy)
    own.empty_cache()


@pytest.mark.parametrize("size", [8, 100], ids=["small", "large"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_results_change_in_place_and_move_to_shared_memory(dtype, size):
    layer = own.BatchNorm2d(32)
    x = torch.randn(4, 32, size, size).to(dtype)
    expected = torch.relu(layer(x).detach())
    y = layer(x)
    torch.relu_(y).float().sum().backward()
    assert torch.equal(y.detach(), expected)
    assert torch.equal(layer(x).detach().share_memory_().relu(), expected)
