"""frameworks: JAX and TensorFlow as contenders, which have threads of their own and always return new arrays."""

import functools
import os

import numpy as np

from problem import EPS, Contender


@functools.cache
def _jax(threads):
    """The module, with so many threads: it reads their number from the environment, once."""
    os.environ["NPROC"] = str(threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    jax.config.update("jax_enable_x64", True)  # changes nothing for float32
    return jax


def jax_contenders(p, operation):
    """Plain jax.numpy under jit, which XLA fuses."""
    jax = _jax(p.threads)
    jnp = jax.numpy
    axes = tuple(axis for axis in range(p.x.ndim) if axis != p.axis % p.x.ndim)
    wide = [1] * p.x.ndim
    wide[p.axis] = -1

    def forward(x, weight, bias):
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(var + EPS) * weight + bias

    def backward(dy, x, weight, mean, inv_std):
        n = x.size // weight.size
        x_hat = (x - mean) * inv_std
        dbias, dweight = dy.sum(axes, keepdims=True), (dy * x_hat).sum(axes, keepdims=True)
        return weight * inv_std * (dy - dbias / n - x_hat * (dweight / n)), dweight, dbias

    def inference(x, weight, bias, mean, var):
        return (x - mean) * (jax.lax.rsqrt(var + EPS) * weight) + bias

    weight, bias, mean, inv_std, running_mean, running_var = (jnp.asarray(v.reshape(wide)) for v in p.per_channel())
    x = jax.device_put(p.x)
    function, arguments = {
        "forward": (forward, (x, weight, bias)),
        "backward": (backward, (jax.device_put(p.dy), x, weight, mean, inv_std)),
        "inference": (inference, (x, weight, bias, running_mean, running_var)),
    }[operation]
    compiled = jax.jit(function)

    def run():
        return jax.block_until_ready(compiled(*arguments))

    return {"jax": Contender(run, lambda result: np.asarray(result[0] if operation == "backward" else result))}


@functools.cache
def _tensorflow(threads):
    """The module, with so many threads: they can be set once, before its first operation."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    return tensorflow


def tensorflow_contenders(p, operation):
    """The fused operator: float32 only, on four axes, which arrays of other ranks are reshaped to."""
    if p.x.dtype != np.float32:
        return {}
    tf = _tensorflow(p.threads)
    ops = tf.raw_ops
    n, c, *spatial = p.row.shape
    flat = int(np.prod(spatial))
    last = p.row.layout != "NCHW"
    shape = (n, flat, 1, c) if last else (n, c, flat, 1)
    kind = {"epsilon": EPS, "data_format": "NHWC" if last else "NCHW"}
    x, dy = (tf.constant(array.reshape(shape)) for array in (p.x, p.dy))
    weight, bias, _, _, mean, var = map(tf.constant, p.per_channel())
    none = tf.constant(np.empty(0, np.float32))
    training = {"mean": none, "variance": none, "is_training": True}
    forward = functools.partial(ops.FusedBatchNormV3, x=x, scale=weight, offset=bias, **kind)
    if operation == "forward":
        run = functools.partial(forward, **training)
    elif operation == "inference":
        run = functools.partial(forward, mean=mean, variance=var, is_training=False)
    else:
        saved = forward(**training)
        reserved = {f"reserve_space_{i}": getattr(saved, f"reserve_space_{i}") for i in (1, 2, 3)}
        run = functools.partial(
            ops.FusedBatchNormGradV3, y_backprop=dy, x=x, scale=weight, is_training=True, **reserved, **kind
        )
    return {"tensorflow": Contender(run, lambda result: result[0].numpy().reshape(p.x.shape))}
