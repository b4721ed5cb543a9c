"""test_torch_memory: memory of results is reused once nobody refers to it, never before, and is not hoarded."""

import gc
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")
own = pytest.importorskip("cbn.interop.torch")
memory = pytest.importorskip("cbn.interop.torch_memory")

F32 = np.dtype(np.float32)
LARGE = (memory.LEAST // 4,)


def address(array):
    return array.ctypes.data


def test_small_arrays_are_not_kept():
    assert memory.Memory().array((4, 5), F32) is None
    assert memory.Memory().array((0, 1 << 40), F32) is None


def test_memory_comes_back_once_the_last_view_is_gone():
    store = memory.Memory()
    array = store.array(LARGE, F32)
    first = address(array)
    views = [
        lambda a: a[5:].reshape(-1, 1).T,
        lambda a: a.view(np.uint8)[::2],
        torch.from_numpy,
        lambda a: torch.from_numpy(a.view(np.uint16)).view(torch.bfloat16)[3:],
        lambda a: torch.from_numpy(a).view(-1, 2).movedim(1, 0).numpy(),
        memoryview,
    ]
    for view in views:
        alive, array = view(array), None
        gc.collect()
        array = store.array(LARGE, F32)
        assert address(array) != first
        del alive, array
        gc.collect()
        array, other = store.array(LARGE, F32), store.array(LARGE, F32)
        assert first in (address(array), address(other))
        array = array if address(array) == first else other
        del other


def test_sizes_nearly_the_same_share():
    store = memory.Memory()
    first = address(store.array((35 * 10000,), F32))
    assert address(store.array((34, 10000), F32)) == first
    assert address(store.array((70, 10000), F32)) != first
    for size in range(memory.LEAST, 3 * memory.LEAST, 54321):
        assert size <= memory._rounded(size) <= size * 9 / 8
    for size in range(4 * memory.LEAST, 100 * memory.LEAST, 54321):
        assert size <= memory._rounded(size) < max(size * 9 / 8, size + memory.HUGE_PAGE)
        assert memory._rounded(size) % memory.HUGE_PAGE == 0


def test_no_more_idle_than_was_in_use():
    store = memory.Memory()
    for factor in (1, 2, 4, 8, 3, 5, 7, 1):
        store.array((factor * LARGE[0],), F32)
        assert memory._total(store._idle) <= 9 * memory.LEAST
    several = [store.array(LARGE, F32) for _ in range(20)]
    del several
    assert memory._total(store._idle) <= 20 * memory._rounded(memory.LEAST)
    assert memory._total(store._in_use) == 0
    store.clear()
    assert memory._total(store._idle) == 0


def test_threads_share_one_store():
    """No array is ever lent twice at a time."""
    store, errors = memory.Memory(), []

    def work(number):
        for _ in range(200):
            arrays = [store.array(LARGE, F32) for _ in range(3)]
            for array in arrays:
                array[:: len(array) // 7] = number
            if not all((array[:: len(array) // 7] == number).all() for array in arrays):
                errors.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and not store._in_use


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_results_stay_as_they_are(dtype, layout):
    """Results of many calls, kept in part, are what fresh calls compute."""
    x = torch.randn(4, 32, 80, 80).to(dtype).contiguous(memory_format=layout)
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


def test_results_change_in_place_and_move_to_shared_memory():
    layer = own.BatchNorm2d(32)
    x = torch.randn(4, 32, 80, 80)
    expected = torch.relu(layer(x).detach())
    y = layer(x)
    torch.relu_(y).sum().backward()
    assert torch.equal(y.detach(), expected)
    assert torch.equal(layer(x).detach().share_memory_().relu(), expected)
