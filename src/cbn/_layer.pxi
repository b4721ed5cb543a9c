# _layer.pxi: the checks and commits of batches.py, where a call is more than one call of C; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause


def laid_out(object x_given, object axis, object channels):
    """x as C sees it."""
    cdef Triple t
    cdef cnp.ndarray x = as_array(x_given, "x")
    x = lay_out(x, channel_axis(axis, x), &t)
    check_channels(t.channels, channels, axis)
    return x


def same_as(object value, str name, cnp.ndarray x, object axis):
    """A dy or residual in the layout of x, which is laid out."""
    cdef Triple t
    cdef int ax = channel_axis(axis, x)
    lay_out(x, ax, &t)
    return same_kind(as_array(value, name), name, x, &t, ax)


def output_for(cnp.ndarray x, object out, object x_given, object residual, object mask, object sample_weight,
               object axis):
    """The array for y."""
    cdef Triple t
    cdef int ax = channel_axis(axis, x)
    lay_out(x, ax, &t)
    y = output(out, x, ax, &t)
    if out is not None:
        check_output_apart(y, as_array(x_given, "x"), residual, mask, sample_weight, ax, &t)
    return y


def gradient_outputs(object out, bint residual, cnp.ndarray x, cnp.ndarray dy, object axis, object y, object others):
    """The arrays for dx and, with a residual, for dresidual, in a tuple.

    dx may take the place of x, dy or y, but nothing of `others`, which are names and arrays.
    """
    cdef Triple t
    cdef int ax = channel_axis(axis, x)
    lay_out(x, ax, &t)
    dx_out, dresidual_out = pair(out, residual)
    dx = output(dx_out, x, ax, &t)
    check_same_or_apart(dx, x, "x", ax, &t)
    check_same_or_apart(dx, dy, "dy", ax, &t)
    if y is not None:
        check_same_or_apart(dx, y, "y", ax, &t)
    for name, other in others:
        check_apart(dx, other, name)
    if not residual:
        return (dx,)
    dresidual = output(dresidual_out, x, ax, &t, "out[1]")
    read = (dx, x, dy, y, *(other for _, other in others))
    if dresidual_out is not None and any(a is not None and may_overlap(a, dresidual) for a in read):
        raise ValueError("out[1] must share no memory with other arrays of the call; got an overlap")
    return dx, dresidual


def check_layer_apart(object layer, object out):
    """That writing out changes nothing of the layer."""
    if isinstance(out, np.ndarray):
        for name in ("weight", "bias", "running_mean", "running_var", "renorm_mean", "renorm_std"):
            check_apart(out, getattr(layer, name), name)


def positions(object mask, object sample_weight, cnp.ndarray x, object axis):
    """mask and sample_weight with one value for each position."""
    return checked_positions(mask, sample_weight, positions_of(x, channel_axis(axis, x)))


def check_values(cnp.ndarray x, object axis, object mask, object sample_weight, bint zero_var, bint updates,
                 str of=""):
    """That there are enough values per channel; `of` names a part of a batch."""
    cdef Triple t
    cdef int ax = channel_axis(axis, x)
    lay_out(x, ax, &t)
    cdef Options options = options_of(None, 0.0, None, mask, sample_weight, x, &t, ax)
    if t.channels:
        check_count(count_of(options, &t), options, x, zero_var, updates, of)


def checked_running(object layer, cnp.ndarray x):
    """The layer's running statistics and counter, all fit to be written, and its momentum."""
    check_momentum(layer.renorm_momentum, "renorm_momentum")
    if layer.momentum is not None:
        check_momentum(layer.momentum)
    cdef Running running = Running(layer.running_mean, layer.running_var, x, layer.num_features)
    return running.mean, running.var, check_counter(layer.num_batches_tracked)


def commit_batch(object running_mean, object running_var, cnp.ndarray mean, cnp.ndarray m2, object count,
                 str variance, object momentum, cnp.ndarray counter, bint zero_debias, cnp.ndarray history):
    """What `forward` does after a batch."""
    commit(Running(running_mean, running_var, running_mean, mean.shape[0]), mean, m2, count, variance, momentum,
           counter, zero_debias, history)


def update_of(object layer, cnp.ndarray x, cnp.ndarray mean, cnp.ndarray m2, object count):
    """What such a batch does to the layer, by nonfinite's rule: an `Update` for `complete`, or None for nothing."""
    cdef Update update = None
    if layer.track_running_stats:
        update = checked_update(layer.running_mean, layer.running_var, x, layer.num_features,
                                layer.convention.weight_of_new(layer.momentum), layer.num_batches_tracked,
                                layer.zero_debias, layer.convention.variance, layer._history)
    bad = None if layer.nonfinite == "propagate" else bad_channel(update, mean, m2, count)
    if layer.nonfinite == "raise":
        refuse_channel(bad)
    if update is None or not count or bad is not None:
        return None
    update.mean, update.m2, update.count = mean, m2, count
    return update


cdef list pairs_of(object targets, object values):
    """Targets and what `put` takes for them; values that are no parts of targets."""
    cdef list pairs = []
    for target, value in zip(targets, values):
        if not isinstance(target, np.ndarray) or target.dtype.kind not in "iufV" or target.dtype.hasobject:
            raise TypeError(f"the layer's arrays must be arrays of numbers; got {target!r}")
        if not target.flags.writeable or (target.ndim > 1 and not target.flags.c_contiguous):
            raise ValueError("the layer's arrays must be writeable, and of rank 1 or contiguous; got another array")
        pairs.append((target, np.ascontiguousarray(np.broadcast_to(value, target.shape), target.dtype)))
    return pairs


cdef void write(list pairs):
    cdef tuple pair
    for pair in pairs:
        put(<cnp.ndarray>pair[0], <cnp.ndarray>pair[1])


def assign(object targets, object values):
    """All of them in one piece: all that can fail comes first, and no signal or other thread can split the rest."""
    with lock:
        write(pairs_of(targets, values))


def complete(object layer, object update, object saved, str why_none, object mean, object inv_std):
    """The end of a training call: the statistics and what backward needs, in one piece.

    update is None, an `Update`, or a function that gives arrays and the values for them.
    """
    with lock:
        if isinstance(update, Update):
            (<Update>update).commit()
        elif update is not None:
            targets, values = update()
            assign(targets, values)
        layer._saved, layer._why_none, layer.batch_mean, layer.batch_inv_std = saved, why_none, mean, inv_std


def put_back(list states):
    """Update dicts by others that have the same keys, which takes no memory."""
    cdef tuple pair
    for pair in states:
        (<dict>pair[0]).update(<dict>pair[1])
