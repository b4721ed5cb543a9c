"""test_layer_threads: one layer in several threads, signal handlers and children: nothing lost or torn, no deadlock."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from threads import run

import cbn

LARGE = 3000  # channels: NumPy copies so many without the GIL


def numbered(number):
    """A state of which each array tells the number, with which y of x = 0 is -number / number * number + number = 0."""
    state = {name: np.full(LARGE, number, np.float32) for name in ("weight", "bias", "running_mean")}
    return {**state, "running_var": state["weight"] ** 2, "num_batches_tracked": np.array(number)}


def test_evaluation_sees_a_loaded_state_whole():
    """A served layer whose state is replaced: each y is of one state, all of it."""
    layer = cbn.BatchNorm(LARGE, eps=0.0).eval()
    states = [numbered(n) for n in (1, 2, 4, 8)]
    layer.load_state_dict(states[0])
    x = np.zeros((1, LARGE), np.float32)
    done, torn, served = threading.Event(), [], [0]

    def load():
        for turn in range(400):
            layer.load_state_dict(states[turn % len(states)])

    def serve():
        while not done.is_set():
            y = layer(x)
            if y.any():
                torn.append(y)
            served[0] += 1

    run(lambda work: work(), [(load,), (serve,), (serve,)], done)
    assert served[0] > 10 and not torn


@pytest.mark.parametrize("options", [{}, {"convention": "lecture"}, {"renorm": True}, {"virtual_batch_size": 8}])
def test_copies_of_a_state_are_whole_while_others_train(options):
    """All channels get the same values, so all of a copied state agrees, and no batch is lost."""
    layer = cbn.BatchNorm(LARGE, momentum=0.5, **options)
    x = np.repeat(np.linspace(-1, 1, 16, dtype=np.float32)[:, None], LARGE, axis=1)
    done, seen = threading.Event(), []

    def train():
        for turn in range(30):
            layer(x * (turn + 1))

    def look():
        while not done.is_set():
            seen.append(layer.state_dict())
            seen[:-20] = []

    run(lambda work: work(), [(look,), (train,), (train,), (train,)], done)
    assert layer.num_batches_tracked == 3 * 30 * (2 if "virtual_batch_size" in options else 1)
    for state in seen:
        for name in ("running_mean", "running_var"):
            assert np.unique(state[name]).size == 1, name


def test_different_layers_are_independent():
    """Whatever thread commits: each layer ends as it does alone."""
    rng = np.random.default_rng(0)
    batches = rng.standard_normal((20, 64, 5)).astype(np.float32)
    alone, layers = cbn.BatchNorm(5), [cbn.BatchNorm(5) for _ in range(6)]
    for x in batches:
        alone(x)

    def train(layer):
        for x in batches:
            layer(x)

    run(train, [(layer,) for layer in layers])
    for layer in layers:
        np.testing.assert_array_equal(layer.running_var, alone.running_var)


HANDLER = """
import pickle, random, signal, sys
import numpy as np, cbn
layer = cbn.BatchNorm(2000, **eval(sys.argv[1]))
x = np.random.default_rng(0).standard_normal((16, 2000)).astype(np.float32)
handled, torn = [], []
def handler(*_):  # as one that saves before the process ends
    state = layer.state_dict()
    pickle.dumps(layer)
    layer.affine_map()
    handled.append(int(state["num_batches_tracked"]))
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005)
batches = 0
while len(handled) < 300:
    layer(x)
    layer.state_dict()
    batches += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
parts = 2 if layer.virtual_batch_size else 1
print(int(layer.num_batches_tracked) == batches * parts, all(n % parts == 0 for n in handled))
"""


@pytest.mark.parametrize("options", [{}, {"convention": "lecture"}, {"renorm": True}, {"virtual_batch_size": 8}])
def test_a_handler_of_a_signal_may_save_the_layer(options):
    """It may have come into the commit of that very layer: it neither waits for ever nor sees half of a batch."""
    command = [sys.executable, "-c", HANDLER, repr(options)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.stdout.split() == ["True", "True"], result.stderr


def test_arrays_that_another_thread_changes():
    """What comes out is anyone's guess, but every call returns, and the next one, undisturbed, is right."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 16, 8, 40, 40)).astype(np.float32)
    mask, sample_weight = np.ones((16, 40, 40), bool), np.ones((16, 40, 40))
    sound = x.copy()
    layer = cbn.BatchNorm(8, activation="relu")
    done, calls = threading.Event(), [0]

    def change():
        turn = 0
        while not done.is_set():
            turn += 1
            for array in (x, dy, layer.weight, layer.bias, layer.running_mean):
                array[...] = (np.nan, np.inf, turn, -1e30, 0)[turn % 5]
            mask[1:], sample_weight[1:] = turn % 2, turn % 3  # enough is left to be counted

    def call():
        for _ in range(40):
            y = layer(x, mask=mask)
            dx = layer.backward(dy)
            layer(x, sample_weight=np.broadcast_to(sample_weight, mask.shape))
            assert y.shape == dx.shape == x.shape
            cbn.moments(x, mask=mask, num_threads=2)
            calls[0] += 1

    run(lambda work: work(), [(call,), (change,)], done)
    assert calls[0] == 40
    layer = cbn.BatchNorm(8)
    np.testing.assert_array_equal(layer(sound), cbn.batch_norm(sound, training=True))
