"""hostile: what a layer's file says of itself in JSON, as no layer would say it, for the tests of those who read it."""

import json

import cbn

NAMES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
MANY = 2**31  # channels, of which the arrays have 8 GB each


def meta_of(**changes):
    """What a layer of 3 channels says of itself."""

    layer = cbn.BatchNorm(3)
    options = (
        "num_features",
        "eps",
        "momentum",
        "affine",
        "track_running_stats",
        "negative_slope",
        "one_value",
        "axis",
    )
    options += ("activation", "nonfinite", "frozen", "virtual_batch_size", "renorm", "renorm_clipping")
    meta = {name: getattr(layer, name) for name in (*options, "renorm_momentum", "zero_debias")}
    meta |= {"format": "cbn.BatchNorm", "version": 1, "class": "BatchNorm", "dtype": "float32", "count": 0, "start": 1}
    return meta | {"weight": True, "bias": True, "convention": layer.convention.to_dict()} | changes


def text_of(name, value):
    """The text of a layer in which a value stands as it is written here."""
    return json.dumps(meta_of(**{name: "@"})).replace('"@"', value).encode()


TEXTS = {
    "deep": b"[" * 60_000,
    "deep objects": b'{"a":' * 10_000,
    "digits": text_of("num_features", "9" * 5000),
    "long digits": text_of("num_features", "9" * 4000),
    "float": text_of("num_features", "3.0"),
    "nan features": text_of("num_features", "NaN"),
    "infinite features": text_of("num_features", "Infinity"),
    "nan eps": text_of("eps", "NaN"),
    "infinite eps": text_of("eps", "1e999"),
    "nan count": text_of("count", "NaN"),
    "nan momentum": text_of("momentum", "NaN"),
    "negative axis digits": text_of("dtype", "-1"),
    "surrogate class": text_of("class", '"\\ud800"'),
    "terminal class": text_of("class", '"\\u001b[2J\\n\\u0007"'),
    "surrogate dtype": text_of("dtype", '"\\ud800"'),
    "null": b"null",
    "number": b"1",
    "text": b'"x"',
    "empty": b"",
    "lone bytes": b"\xff\xfe\xfd",
    "convention keys": text_of("convention", '{"name": "x", "__class__": 1}'),
    "convention missing": text_of("convention", "{}"),
    "convention text": text_of("convention", '"torch"'),
    "clipping nan": text_of("renorm_clipping", '{"rmax": NaN}'),
    "clipping deep": text_of("renorm_clipping", '{"rmax": ' + "[" * 5000 + "]" * 5000 + "}"),
    "structured dtype": text_of("dtype", '[["a", "<f4"], ["b", "O"]]'),
    "many dtypes": text_of("dtype", json.dumps(",".join(["f4"] * 10_000))),
    "version list": text_of("version", "[1]"),
    "negative features": text_of("num_features", "-3"),
    "true features": text_of("num_features", "true"),
}
