"""layers: a layer with options from a source, and some of what is done with layers, one after the other."""

import copy
import pickle
from collections import OrderedDict

import numpy as np
from calls import axis_of
from drawing import ABSURD, DTYPES
from rules import RAISED, must

import cbn

CONVENTIONS = "torch", "keras", "tf_fused", "tf_contrib", "onnx", "flax", "paper", "lecture", "notes"
ARRAYS = "weight", "bias", "running_mean", "running_var", "num_batches_tracked", "renorm_mean", "renorm_std"
HUGE = 2**40  # channels, of which there is never memory


def made(s, r, c, axis):
    cls = s.pick((cbn.BatchNorm, cbn.BatchNorm, cbn.BatchNorm1d, cbn.BatchNorm2d, cbn.BatchNorm3d))
    options = {"axis": axis, "dtype": s.number(np.float32, *DTYPES), "activation": s.number(None, "relu", "leaky_relu")}
    for name, plain in (
        ("eps", (1e-5, 0.0, 1.0)),
        ("momentum", (0.1, None, 1.0, 0.0)),
        ("affine", (True, False)),
        ("track_running_stats", (True, False)),
        ("weight", (True, False)),
        ("bias", (True, False)),
        ("negative_slope", (0.01, 0.0, 2.0)),
        ("convention", CONVENTIONS),
        ("nonfinite", ("propagate", "raise", "skip")),
        ("one_value", ("error", "zero_var")),
        ("frozen", (False, True)),
        ("virtual_batch_size", (None, 1, 2, 4)),
        ("renorm", (False, True)),
        ("renorm_clipping", (None, {"rmax": 3.0, "dmax": 5.0}, {"rmin": 2.0, "rmax": 1.0})),
        ("renorm_momentum", (0.01, 1.0)),
        ("zero_debias", (False, True)),
    ):
        if s.rarely(5):
            options[name] = s.number(*plain)
    size = s.pick((c,) * 15 + (HUGE,))
    return r.call(cls.__name__, cls, s.pick(ABSURD[:4]) if s.rarely(64) else size, **options)


class Session:
    """A layer, and what was last given to it."""

    def __init__(self, s, r):
        self.s, self.r = s, r
        self.shape, self.dtype = s.shape(), s.pick(DTYPES)
        axis = axis_of(s, len(self.shape))
        whole = type(axis) is int and -len(self.shape) <= axis < len(self.shape)
        self.axis = axis if whole else 1
        self.layer = made(s, r, self.shape[self.axis] if len(self.shape) > self.axis else 3, axis)

    def call(self, name, function, *args, **kwargs):
        return self.r.call(name, function, *args, of=self.layer, **kwargs)

    def own(self):
        """The layer's arrays, which a training call writes."""
        return [getattr(self.layer, name) for name in ARRAYS]

    def forward(self):
        s = self.s
        x = s.array(self.shape, self.dtype)
        kwargs = s.extras(self.shape, self.axis, self.dtype, x)
        for name in ("activation", "negative_slope"):
            kwargs.pop(name, None)
        y = self.call("layer", self.layer, x, written=[kwargs.get("out"), *self.own()], **kwargs)
        if y is not RAISED and "out" in kwargs and kwargs["out"] is not None:
            must(y is kwargs["out"], "layer must return out; got another array")

    def backward(self):
        dy, out = self.s.array(self.shape, self.dtype), None
        if self.s.rarely(3):
            out = self.s.array(self.shape, self.dtype)
            out = self.s.pick((out, dy, (out, self.s.array(self.shape, self.dtype))))
        self.call("backward", self.layer.backward, dy, out=out, written=out if isinstance(out, tuple) else [out])

    def mode(self):
        self.call("train", self.layer.train, self.s.number(True, False))

    def evaluate(self):
        self.layer.eval()

    def load(self):
        """Its own state, or one in which something is odd."""
        s = self.s
        state = OrderedDict((name, s.array(value.shape, value.dtype)) for name, value in self.layer._state().items())
        if s.rarely(2):
            state = self.layer.state_dict()
        if s.rarely(3):
            state[s.pick((*ARRAYS, "other", 3))] = s.pick(ABSURD)
        if s.rarely(4) and state:
            del state[s.pick(list(state))]
        if s.rarely(4):
            own = {s.pick(("version", "eps", "convention", "count", "start")): s.pick(ABSURD)}
            state._metadata = s.number({"": own}, own)
        arguments = s.number(state, state), s.number(True, False)
        self.call("load_state_dict", self.layer.load_state_dict, *arguments, written=self.own())

    def attribute(self):
        """Another array in the place of its own, of any memory and dtype."""
        name = self.s.pick(ARRAYS)
        own = getattr(self.layer, name)
        if own is not None:
            value = self.s.array(own.shape, own.dtype)
            fits = isinstance(value, np.ndarray) and value.shape == own.shape and value.dtype in DTYPES
            if fits and not isinstance(value, np.ma.MaskedArray):  # whose own copies warn
                setattr(self.layer, name, value)

    def number(self):
        setattr(self.layer, self.s.pick(("frozen", "training")), self.s.pick((True, False)))

    def check(self):
        x = self.s.array(self.shape, self.dtype)
        self.call("check", _checked, self.layer, x)

    def ask(self):
        s = self.s
        self.call("affine_map", self.layer.affine_map)
        self.call("drift", self.layer.drift, s.array(self.shape, self.dtype), samples=s.number(None, 2.0))
        self.call("convert", cbn.convert, self.layer, s.number(*CONVENTIONS))

    def copies(self):
        copied = self.call("copy", self.s.pick((copy.copy, copy.deepcopy, _pickled)), self.layer)
        must(copied is RAISED or repr(copied) == repr(self.layer), "a copy must read as the layer; got another")

    def reset(self):
        function = self.s.pick((self.layer.reset_running_stats, self.layer.reset_parameters))
        self.call("reset", function, written=self.own())

    def recompute(self):
        s = self.s
        batches = [s.array(self.shape, self.dtype) for _ in range(s.pick((2, 1, 3)))]
        batches = s.number(batches, batches, iter(batches))
        options = {"mode": s.number("pooled", "paper", "update_bn"), "progress": False, "written": self.own()}
        self.call("recompute_statistics", cbn.recompute_statistics, self.layer, batches, **options)


def _pickled(layer):
    return pickle.loads(pickle.dumps(layer))


def _checked(layer, x):
    """The layer's own check against the oracle, where bounds are meant for its values."""
    parameters = [getattr(layer, name) for name in ARRAYS]
    values = np.asarray(x, np.float64) if isinstance(x, np.ndarray) and x.dtype in DTYPES else None
    if layer.eps < 1e-6 or values is None or np.abs(values).max(initial=0) > 1e4 or not np.isfinite(values).all():
        return
    if all(p is None or (np.abs(p.astype(float)) < 1e3).all() for p in parameters):
        layer.check(x)


OPERATIONS = [Session.forward, Session.forward, Session.backward, Session.mode, Session.evaluate, Session.load]
OPERATIONS += [Session.attribute, Session.number, Session.check, Session.ask, Session.copies, Session.reset]
OPERATIONS += [Session.recompute]


def layers(s, r):
    session = Session(s, r)
    if session.layer is RAISED:
        return
    for _ in range(s.pick((4, 1, 2, 8))):
        s.pick(OPERATIONS)(session)
