# _running.pxi: running statistics: whether a batch may change them, and how it does; a part of _core.pyx.
# SPDX-License-Identifier: BSD-3-Clause


# One for all layers, since it is held for microseconds. Re-entrant, so that a signal's handler may save the very layer
# whose call it came into. Taken for a fork, so that the child has no half of a commit, and no lock that nobody frees.
lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


cdef class Running:
    """Running statistics that will be written."""
    cdef cnp.ndarray mean, var
    cdef cbn_dtype dtype

    def __cinit__(self, object running_mean, object running_var, cnp.ndarray x, Py_ssize_t channels):
        cdef Parameters parameters = Parameters(x, channels)
        self.mean, self.var = parameters.running(running_mean, running_var)
        self.dtype = parameters.dtype


cdef class Update:
    """What a batch does to running statistics."""
    cdef Running running
    cdef cnp.ndarray mean, m2, counter, history
    cdef object count, momentum
    cdef str variance
    cdef bint zero_debias

    cdef commit(self):
        commit(self.running, self.mean, self.m2, self.count, self.variance, self.momentum, self.counter,
               self.zero_debias, self.history)

    cdef tuple moved(self, cnp.ndarray mean, cnp.ndarray m2, object count):
        """Copies of the running statistics after such a batch: they may be infinite where its own are not."""
        cdef Running own = self.running
        cdef Running after = Running(own.mean.copy(), own.var.copy(), own.mean, cnp.PyArray_DIM(mean, 0))
        counter = None if self.counter is None else self.counter.copy()
        if count:
            commit(after, mean, m2, count, self.variance, self.momentum, counter, self.zero_debias)
        return after.mean, after.var


cdef Update checked_update(object running_mean, object running_var, cnp.ndarray x, Py_ssize_t channels,
                           object momentum, object counter, bint zero_debias, str variance, object history):
    """All of it but the batch's count, mean and m2."""
    cdef Update update = Update()
    update.running = Running(running_mean, running_var, x, channels)
    if momentum is not None:
        check_momentum(momentum)
    if counter is not None or momentum is None or zero_debias:
        update.counter = check_counter(counter)
    if history is not None:
        update.history = check_history(history)
    update.momentum, update.variance, update.zero_debias = momentum, variance, zero_debias
    return update


cdef int check_running_apart(Running running, cnp.ndarray x, cnp.ndarray weight, cnp.ndarray bias) except -1:
    """That the update changes nothing but the running statistics."""
    cdef cnp.ndarray other
    for name, other in (("x", x), ("weight", weight), ("bias", bias)):
        if other is not None and may_overlap(running.mean, other):
            raise ValueError(f"running_mean must share no memory with {name}; got an overlap")
        if other is not None and may_overlap(running.var, other):
            raise ValueError(f"running_var must share no memory with {name}; got an overlap")
    return 0


cdef object averaged_deviation(cnp.ndarray var, cnp.ndarray m2, object count, double factor):
    """The running variance whose root is the average of its own and the batch's."""
    with np.errstate(all="ignore"):
        std = (1 - factor) * np.sqrt(var.astype(np.float64)) + factor * np.sqrt(m2 / count)
        return np.square(std).astype(var.dtype)


cdef commit(Running running, cnp.ndarray mean, cnp.ndarray m2, object count, str variance, object momentum,
            cnp.ndarray counter=None, bint zero_debias=False, cnp.ndarray history=None):
    """`write_batch` in the default rounding state."""
    cdef unsigned long long saved = cbn_fp_enter()
    try:
        write_batch(running, mean, m2, count, variance, momentum, counter, zero_debias, history)
    finally:
        cbn_fp_leave(saved)


cdef write_batch(Running running, cnp.ndarray mean, cnp.ndarray m2, object count, str variance, object momentum,
                 cnp.ndarray counter, bint zero_debias, cnp.ndarray history):
    """Both running statistics, the counter and the history. `variance` is a `Convention`'s, momentum weighs the new.

    With `zero_debias` the mean counts the batches so far, not its start.
    """
    cdef int64_t *tracked = <int64_t *>data(counter)
    cdef double *known = <double *>data(history)
    cdef double values = count, factor = 1.0 / (tracked[0] + 1) if momentum is None else momentum
    cdef double mean_factor = factor, divisor = values - 1 if variance == "unbiased" and values > 1 else values
    if zero_debias and momentum is not None and factor > 0:
        mean_factor = factor / -expm1((tracked[0] + 1) * log1p(-factor))
    cdef Py_ssize_t channels = cnp.PyArray_DIM(mean, 0)
    # filled by hand before the first batch: as a state that says nothing of its batches
    cdef bint by_hand = known != NULL and known[0] == 0 and (running.var != 1).any()
    cdef cnp.ndarray var = None
    if variance == "deviation":
        var = averaged_deviation(running.var, m2, count, factor)
    # from here on nothing can fail, and no signal is handled
    cbn_update_running(data(running.mean), <double *>data(mean), 1, mean_factor, running.dtype, channels)
    if var is None:
        cbn_update_running(data(running.var), <double *>data(m2), divisor, factor, running.dtype, channels)
    else:
        put(running.var, var)
    if tracked != NULL:
        tracked[0] += 1
    if by_hand:
        known[0], known[1] = NAN, 0
    if known != NULL and factor > 0:
        remember(known, values, factor)


cdef void put(cnp.ndarray target, cnp.ndarray value) noexcept:
    """Copy a value in C order into a target of its dtype and size, and of rank 1 or in C order.

    np.copyto does it without the GIL if there is much of it, and others would see half.
    """
    cdef Py_ssize_t i, itemsize = cnp.PyArray_ITEMSIZE(target)
    cdef Py_ssize_t step = cnp.PyArray_STRIDE(target, 0) if cnp.PyArray_NDIM(target) == 1 else itemsize
    if cnp.PyArray_IS_C_CONTIGUOUS(target):
        memcpy(data(target), data(value), <size_t>cnp.PyArray_NBYTES(target))
        return
    for i in range(cnp.PyArray_SIZE(value)):
        memcpy(<char *>data(target) + i * step, <char *>data(value) + i * itemsize, itemsize)


cdef void remember(double *history, double count, double factor) noexcept:
    """The count of all batches, NaN once they differ, and the weight that the start of the variance still has."""
    if history[0] == 0 or factor == 1:
        history[0] = count
    elif history[0] != count:
        history[0] = NAN
    history[1] *= 1 - factor


cdef object counted(object count, Options options):
    """Values per channel that count at all."""
    return count if options is None or not options.weighted else int((options.weights > 0).sum())


cpdef int check_enough(object counted, object count, cnp.ndarray x, bint zero_var, bint updates, str of) except -1:
    """Whether so many values have a variance, for training and for the running variance; `of` says which they are."""
    if counted == 1 and not zero_var:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {np.shape(x)}{of}")
    if counted > 1 and updates and count <= 1:
        raise ValueError(f"sample_weight must sum to more than 1 for an unbiased running variance; got {count}")
    return 0


cdef int check_count(object count, Options options, cnp.ndarray x, bint zero_var, bint updates,
                     str of="") except -1:
    """The same of the values of one call."""
    masked = "" if options is None or options.weights is None else ", of which the mask or the weights leave one"
    return check_enough(counted(count, options), count, x, zero_var, updates, masked + of)


def first_not_finite(*arrays):
    """The first channel in which one of the arrays is not finite, or None."""
    bad = ~np.logical_and.reduce([np.isfinite(array) for array in arrays])
    return int(bad.argmax()) if bad.any() else None


def refuse_channel(object channel):
    """The error of nonfinite="raise", unless channel is None."""
    if channel is not None:
        raise ValueError(f"x must have a finite mean and variance in every channel, and leave the running statistics "
                         f"finite; got others in channel {channel}")


cdef object bad_channel(Update update, cnp.ndarray mean, cnp.ndarray m2, object count):
    """The first channel that is not finite in the batch, or in the running statistics (if any) after it; or None."""
    if update is None:
        return first_not_finite(mean, m2)
    return first_not_finite(mean, m2, *update.moved(mean, m2, count))


def update_running(object running_mean, object running_var, object mean, object m2, object count, object momentum,
                   bint unbiased):
    """running = (1 - momentum) * running + momentum * new, in place."""
    cdef cnp.ndarray r_mean, c_mean, c_m2
    cdef Py_ssize_t channels
    cdef Running running
    check_momentum(momentum)
    r_mean = as_array(running_mean, "running_mean")
    if cnp.PyArray_NDIM(r_mean) != 1:
        raise ValueError(f"running_mean must have rank 1; got shape {np.shape(r_mean)}")
    channels = cnp.PyArray_DIM(r_mean, 0)
    running = Running(running_mean, running_var, r_mean, channels)
    # copies: the moments may be views of the very arrays that are written
    c_mean = per_channel_double(mean, "moments.mean", channels).copy()
    c_m2 = per_channel_double(m2, "moments.m2", channels).copy()
    if count < 0:
        raise ValueError(f"moments.count must be >= 0; got {count}")
    if unbiased and 0 < count <= 1:
        raise ValueError(f"moments.count must be more than 1 for an unbiased variance; got {count}")
    if count:
        commit(running, c_mean, c_m2, count, "unbiased" if unbiased else "biased", momentum)
