"""test_corpus_python: what the fuzzer of the Python surface found worth keeping, run again; its rules can be broken."""

import warnings

import numpy as np
import pytest
from drawing import Source
from fuzz_python import corpus, one_input
from rules import RAISED, Broken, Rules

import cbn


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.name)
def test_input_keeps_the_rules(path):
    one_input(path.read_bytes())


def test_corpus_is_there():
    assert len(corpus()) > 100


def raising(error):
    def function(x, layer):
        raise error

    return function


def written(x, layer):
    x[0] = 7


def written_before_an_error(x, layer):
    x[0] = 7
    raise ValueError("x must be good; got a bad one")


def layer_changed_before_an_error(x, layer):
    layer.running_mean[0] = 7
    raise ValueError("x must be good; got a bad one")


def attribute_changed_before_an_error(x, layer):
    layer.batch_mean = np.ones(2)
    raise ValueError("x must be good; got a bad one")


def warned(x, layer):
    warnings.warn("divide by zero", RuntimeWarning, stacklevel=1)


BREAKING = [written, written_before_an_error, layer_changed_before_an_error, attribute_changed_before_an_error, warned]
BREAKING += [raising(KeyError("x must be there")), raising(ValueError("bad")), raising(OverflowError("x must fit"))]


@pytest.mark.parametrize("function", BREAKING)
def test_broken_rule_is_found(function):
    source = Source(b"")
    x, layer = source.array((3,), np.float32), cbn.BatchNorm(2)
    with pytest.raises(Broken):
        Rules(source).call("function", function, x, layer, of=layer)


def test_kept_rules():
    source = Source(b"")
    x, layer = source.array((3,), np.float32), cbn.BatchNorm(2)
    assert Rules(source).call("function", raising(TypeError("x must be other")), x, layer, of=layer) is RAISED
    assert Rules(source).call("function", written, x, layer, written=[x]) is None
