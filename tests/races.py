"""races: one object in several threads, for ThreadSanitizer: run by tests/races. With `planted`, a race on purpose."""

import sys
import threading

import numpy as np

import cbn

TURNS = 30
SHAPE = 64, 8, 16, 16  # long enough without the GIL for the others to get there


def together(*jobs):
    """Each job in its own thread, at the same time, some turns long."""
    barrier, errors = threading.Barrier(len(jobs)), []

    def run(job):
        barrier.wait()
        try:
            for _ in range(TURNS):
                job()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def planted(x):
    """Two calls that write one array, both without the GIL."""
    y = np.empty_like(x)
    together(*[lambda: cbn.batch_norm_forward(x, out=y)] * 2)


def layer_in_threads(x, **options):
    """Training, gradients, inference on a layer that shares its arrays, and states read, loaded and reset."""
    layer = cbn.BatchNorm(x.shape[1], **options)
    layer(x)
    serving = cbn.BatchNorm(x.shape[1], **options).eval()
    for name in ("weight", "bias", "running_mean", "running_var", "renorm_mean", "renorm_std"):
        setattr(serving, name, getattr(layer, name))
    state = layer.state_dict()

    def trained():
        y = layer(x)
        layer.backward(y)

    jobs = [trained, trained, lambda: serving(x), lambda: serving(x), lambda: layer.load_state_dict(state)]
    together(*jobs, layer.state_dict, layer.affine_map, layer.reset_running_stats, layer.__getstate__)


def modes_in_threads(x):
    """One layer that is switched between its modes while it is called."""
    layer = cbn.BatchNorm(x.shape[1])
    together(lambda: layer.eval()(x), lambda: layer.train()(x), lambda: layer.drift(x), lambda: layer(x))


def normalizer_in_threads(x):
    normalizer = cbn.FeatureNormalizer().fit(x)
    together(
        *[lambda: normalizer.partial_fit(x)] * 2, *[lambda: normalizer.transform(x)] * 2, lambda: normalizer.moments
    )


def recomputed_in_threads(x):
    layer, serving = cbn.BatchNorm(x.shape[1]), cbn.BatchNorm(x.shape[1]).eval()
    serving.running_mean, serving.running_var = layer.running_mean, layer.running_var
    together(lambda: cbn.recompute_statistics(layer, [x], progress=False), lambda: serving(x), layer.state_dict)


def main(arguments):
    sys.setswitchinterval(1e-5)
    cbn.set_num_threads(1)
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    if arguments == ["planted"]:
        planted(x)
        return
    for options in (
        {},
        {"momentum": None, "nonfinite": "raise", "activation": "relu"},
        {"renorm": True, "nonfinite": "skip"},
        {"virtual_batch_size": 16, "convention": "keras"},
        {"convention": "tf_contrib", "zero_debias": True},
        {"dtype": np.float64},
    ):
        layer_in_threads(x, **options)
        print("no race in a layer with", options or "its defaults", flush=True)
    modes_in_threads(x)
    normalizer_in_threads(x)
    recomputed_in_threads(x)
    print("no race between modes, in FeatureNormalizer, in recompute_statistics")


if __name__ == "__main__":
    main(sys.argv[1:])
