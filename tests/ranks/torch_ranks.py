"""torch_ranks: what test_torch_sync.py runs on each rank of a gloo group: `python torch_ranks.py RANK SIZE FILE`.

The ranks meet at the file. One that fails exits with another status than 0; the others then wait for it in vain.
"""

import copy
import os
import sys
from datetime import timedelta
from functools import partial

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import cbn.interop.torch as own
from cbn.interop.mpi import RankError

OPTIONS = (
    {},
    {"eps": 1e-2, "momentum": 0.7},
    {"momentum": None},
    {"affine": False},
    {"bias": False},
    {"track_running_stats": False},
)
SIZES = {2: [(4, 4), (5, 2), (0, 6), (1, 1)], 3: [(2, 2, 2), (5, 0, 1), (0, 0, 3), (1, 1, 0)]}


def close(ours, theirs, tolerance=1e-12):
    ours, theirs = ours.detach().double(), theirs.detach().double()
    largest = max([1.0, *theirs.abs().flatten().tolist()])
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * largest)


def raised(kind, text, function, *arguments):
    try:
        function(*arguments)
    except kind as error:
        assert text in str(error), str(error)
        assert type(error) is kind, type(error)
    else:
        raise AssertionError(f"{kind.__name__} must be raised; got none")


def part_of(whole, sizes, rank):
    return whole.split(sizes)[rank].clone()


def summed(tensor):
    tensor = tensor.clone()
    distributed.all_reduce(tensor)
    return tensor


def whole_batch(rank, size):
    """y, dx, the sums of dweight and dbias, and the state are those of one process with the whole batch."""
    for options in OPTIONS:
        theirs = nn.BatchNorm2d(4, dtype=torch.float64, **options)
        for parameter in theirs.parameters():
            nn.init.normal_(parameter)
        ours = own.SyncBatchNorm(4, dtype=torch.float64, **options)
        ours.load_state_dict(theirs.state_dict())
        for sizes in SIZES[size]:
            whole, dy = torch.randn(2, sum(sizes), 4, 3, 5, dtype=torch.float64) + 100
            whole.requires_grad_()
            x = part_of(whole.detach(), sizes, rank).requires_grad_()
            ours.zero_grad(), theirs.zero_grad()
            y, expected = ours(x), theirs(whole)
            y.backward(part_of(dy, sizes, rank))
            expected.backward(dy)
            close(y, part_of(expected, sizes, rank))
            close(x.grad, part_of(whole.grad, sizes, rank), 1e-10)
            for name, parameter in theirs.named_parameters():
                close(summed(ours.get_parameter(name).grad), parameter.grad, 1e-10)
            for name, value in theirs.state_dict().items():
                close(ours.state_dict()[name], value)
        ours.eval(), theirs.eval()
        close(ours(x), theirs(x))  # no call of the others: they are in other parts of the loop
        for value in ours.state_dict().values():
            rows = [torch.empty_like(value) for _ in range(size)]
            distributed.all_gather(rows, value)
            assert all(torch.equal(row, value) for row in rows)


def sub_groups(rank, size):
    """The first two ranks, or the first, and the last alone, which is not in that group at all."""
    group = distributed.new_group(range(size - 1))
    theirs, ours = nn.BatchNorm1d(3, dtype=torch.float64), own.SyncBatchNorm(3, process_group=group).double()
    whole = torch.randn(6, 3, dtype=torch.float64)
    parts = whole.split(4 // (size - 1) if size > 2 else 3)
    expected = theirs(torch.cat(parts[: size - 1]) if rank < size - 1 else parts[rank])
    y = ours(parts[rank])
    close(y, expected.split(len(y))[rank] if rank < size - 1 else expected)
    close(ours.running_var, theirs.running_var)
    assert copy.deepcopy(ours).process_group is group


def network():
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 8)]
    return nn.Sequential(*layers, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def ddp_training(rank, size):
    """Losses step by step, parameters and statistics are those of one process with the whole batch."""
    one, many = network(), own.convert_sync_batchnorm(network())
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in many.modules())
    model = DistributedDataParallel(many)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (one, model)]
    generator = torch.Generator().manual_seed(2)
    for sizes in [(9, 3, 4)[:size], (5, 5, 5)[:size], (6, 0, 3)[:size]] * 2:
        x = torch.randn(sum(sizes), 2, 8, 8, generator=generator)
        labels = torch.randint(0, 3, (sum(sizes),), generator=generator)
        whole = nn.functional.cross_entropy(one(x), labels)
        y = model(part_of(x, sizes, rank))
        loss = nn.functional.cross_entropy(y, part_of(labels, sizes, rank), reduction="sum") * size / sum(sizes)
        for value, optimizer in zip((whole, loss), optimizers, strict=True):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        close(summed(loss.detach()) / size, whole, 1e-5)
    for name, value in one.state_dict().items():
        close(many.state_dict()[name], value, 1e-4)


def what_torch_refuses(rank, size):
    """The reason for all this: torch's own class, with and without DistributedDataParallel."""
    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    raised(ValueError, "SyncBatchNorm layers only work with GPU modules", DistributedDataParallel, theirs)
    raised(ValueError, "expected input tensor to be on GPU", theirs, torch.ones(4, 2, 8, 8))
    DistributedDataParallel(own.convert_sync_batchnorm(theirs))(torch.randn(4, 2, 8, 8)).sum().backward()


def faults(rank, size):
    """An error on one rank is one on all, and changes nothing; the next call works."""
    first = rank == 0
    norm = own.SyncBatchNorm(3)
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(4, 3, 5)
    wrong = torch.randn(4, 2, 5) if first else x
    kind, text = (ValueError, "x must have 3 channels") if first else (RankError, "ValueError: x must have 3 channels")
    raised(kind, text, norm, wrong)
    raised(ValueError, "dtype of x must be the same on every rank; got ", norm, x.double() if first else x)
    raised(ValueError, "options must be the same on every rank; got ", norm, x.clone().requires_grad_(first))
    raised(ValueError, "Expected more than 1 value", norm, x[: int(first), :, :1])
    weight = norm.weight
    norm.weight = nn.Parameter(torch.ones(2)) if first else weight
    raised(ValueError if first else RankError, "weight must have shape (3,)", norm, x)
    norm.weight = weight
    norm.num_batches_tracked.fill_(int(first))
    raised(ValueError, "num_batches_tracked must be the same on every rank; got 1 (rank 0)", norm, x)
    norm.num_batches_tracked.zero_()
    norm.momentum = 2 if first else 0.1
    raised(ValueError if first else RankError, "momentum must be a number in [0, 1]", norm, x)
    norm.momentum = 0.1
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])
    assert norm(x).shape == x.shape and norm.num_batches_tracked == 1


def faults_on_the_way_back(rank, size):
    norm, first = own.SyncBatchNorm(3), rank == 0
    x = torch.randn(4, 3, 5, requires_grad=True)
    scaled = x * 1
    y = norm(scaled)
    if first:
        scaled.data = scaled.detach()  # no change of version, and yet
        scaled.add_(1)
    text = "modified by an inplace operation"
    raised(RuntimeError if first else RankError, text, y.sum().backward)
    assert norm.weight.grad is None and x.grad is None
    norm(x).sum().backward()
    first_y, second_y = norm(x), norm(x + rank)
    raised(
        ValueError, "mean of the batch must be the same on every rank", (first_y if first else second_y).sum().backward
    )
    raised(TypeError if first else RankError, "tensors must be plain ones", norm, x.int() if first else x)


def a_rank_that_is_elsewhere(rank, size):
    """The others wait as long as the group says."""
    norm = own.SyncBatchNorm(3, process_group=distributed.new_group(timeout=timedelta(seconds=1)))
    if rank < size - 1:
        raised(RuntimeError, "Timed out waiting 1000ms", norm, torch.randn(4, 3))
        assert norm.num_batches_tracked == 0
    distributed.barrier()


def a_rank_that_dies(rank, size):
    """gloo notices at once."""
    if rank == size - 1:
        os._exit(0)
    norm = own.SyncBatchNorm(3)
    raised(RuntimeError, "gloo/transport", norm, torch.randn(4, 3))
    assert norm.num_batches_tracked == 0
    os._exit(0)


SCENARIOS = (
    whole_batch,
    sub_groups,
    ddp_training,
    what_torch_refuses,
    faults,
    faults_on_the_way_back,
    a_rank_that_is_elsewhere,
    a_rank_that_dies,
)


def main(rank, size, file):
    torch.set_num_threads(1)
    start = partial(distributed.init_process_group, "gloo", init_method=f"file://{file}")
    start(rank=rank, world_size=size, timeout=timedelta(seconds=20))
    for scenario in SCENARIOS:
        torch.manual_seed(0)
        print(scenario.__name__, flush=True)
        scenario(rank, size)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
