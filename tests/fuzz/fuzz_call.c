/* fuzz_call.c: reads a call from bytes, and fills its arrays.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "fuzz.h"

#define ALL_READ (BIT(Y) - 1)

struct reader {
    const uint8_t *next;
    size_t left;
};

static unsigned take(struct reader *from)
{
    return from->left ? from->left--, *from->next++ : 0;
}

/* A size: few, some, or many. */
static ptrdiff_t take_size(struct reader *from)
{
    static const ptrdiff_t steps[] = {0, 1, 16, 1100};
    const unsigned kind = take(from), value = take(from);
    return kind % 4 ? (ptrdiff_t)value * steps[kind % 4] + kind / 4 % 16 : (ptrdiff_t)(value % 20);
}

/* Large arrays, which more than one thread has work for, are slow, and so not the rule. A 0 counts as 1, since some
 * arrays do not have that dimension. */
static void limit_sizes(struct call *call, ptrdiff_t most)
{
    ptrdiff_t *sizes[] = {&call->outer, &call->channels, &call->inner};
    while ((call->outer | !call->outer) * (call->channels | !call->channels) * (call->inner | !call->inner) > most) {
        ptrdiff_t **largest = sizes;
        for (int i = 1; i < 3; i++)
            if (*sizes[i] > **largest)
                largest = &sizes[i];
        **largest = **largest * 3 / 4;
    }
}

/* What each operation reads and writes, of what it may have only that for which `wanted` has the bit. */
static void set_arrays(struct call *call, unsigned wanted, unsigned place)
{
    static const struct {
        unsigned must, may, writes, places;
    } all[OPERATIONS] = {
        [MOMENTS] = {BIT(X), BIT(POSITIONS), BIT(MEAN) | BIT(M2), 0},
        [FORWARD] = {BIT(X), BIT(WEIGHT) | BIT(BIAS) | BIT(RESIDUAL) | BIT(POSITIONS),
                     BIT(Y) | BIT(MEAN) | BIT(M2) | BIT(INV_STD), BIT(X) | BIT(RESIDUAL)},
        [INFERENCE] = {BIT(X) | BIT(GIVEN_MEAN) | BIT(GIVEN_VAR), BIT(WEIGHT) | BIT(BIAS) | BIT(RESIDUAL), BIT(Y),
                       BIT(X) | BIT(RESIDUAL)},
        [BACKWARD] = {BIT(X) | BIT(DY) | BIT(ACTIVATED) | BIT(CENTER) | BIT(FACTOR), BIT(WEIGHT) | BIT(POSITIONS),
                      BIT(Y) | BIT(DRESIDUAL) | BIT(DWEIGHT) | BIT(DBIAS), BIT(X) | BIT(DY) | BIT(ACTIVATED)},
        [DOUBLE_BACKWARD] = {BIT(X) | BIT(DY) | BIT(DDX) | BIT(CENTER) | BIT(FACTOR),
                             BIT(WEIGHT) | BIT(DDWEIGHT) | BIT(DDBIAS), BIT(Y) | BIT(OTHER) | BIT(DWEIGHT), 0},
        [IMAGES] = {BIT(X) | BIT(CENTER) | BIT(FACTOR) | BIT(OFFSET), BIT(RESIDUAL), BIT(Y), BIT(RESIDUAL)},
        [UPDATE_RUNNING] = {BIT(CENTER), 0, BIT(GIVEN_MEAN), 0},
        [SUM] = {BIT(POSITIONS), 0, BIT(MEAN), 0},
    };
    const unsigned uses = all[call->operation].must | (all[call->operation].may & wanted);
    call->writes = all[call->operation].writes;
    if (!(wanted & BIT(DRESIDUAL)))
        call->writes &= ~BIT(DRESIDUAL);
    unsigned places = all[call->operation].places & uses;
    if (call->dtype == CBN_UINT8)
        places &= ~BIT(X);
    call->output = Y;
    if (place < 15 && places & BIT(place)) {
        call->output = (enum array)place;
        call->writes = (call->writes & ~BIT(Y)) | BIT(place);
    }
    call->uses = uses | call->writes;
}

struct call read_call(const uint8_t *data, size_t size)
{
    static const double slopes[] = {0, 0.01, 0.5, 1, 3, 1e-310}, epsilons[] = {0, 1e-5, 1, 1e-310, 1e30};
    struct reader in = {data, size};
    struct call call = {0};
    call.operation = (enum operation)(take(&in) % OPERATIONS);
    const unsigned dtypes = take(&in);
    call.dtype = (enum cbn_dtype)(dtypes & 3), call.param_dtype = (enum cbn_dtype)(dtypes >> 2 & 3);
    call.stat_dtype = (enum cbn_dtype)(dtypes >> 4 & 3);
    if (call.operation == IMAGES || (call.operation == INFERENCE && dtypes >> 6 == 3))
        call.dtype = CBN_UINT8;
    call.outer = take_size(&in), call.channels = take_size(&in), call.inner = take_size(&in);
    const unsigned how = take(&in), number = take(&in), state = take(&in);
    limit_sizes(&call, how % 8 == 7 ? 140000 : 6000);
    call.threads = 1 + (int)(how >> 3) % 8;
    call.training = number & 1, call.to_planes = number >> 1 & 1;
    call.activation = (enum cbn_activation)((number >> 2) % 3);
    call.slope = slopes[(number >> 4) % 6], call.eps = epsilons[number % 5];
    call.divisor = 1 + call.slope;
    call.rounding = state % 4, call.flush = state >> 2 & 1, call.shift = state >> 4;
    call.filling = state >> 3 & 1;
    cbn_cache_bytes = (ptrdiff_t)1 << (12 + take(&in) % 10);
    const unsigned wanted = take(&in) | take(&in) << 8 | take(&in) << 16, place = take(&in) % 20;
    set_arrays(&call, wanted, place);
    call.contents = in.next, call.length = in.left;
    return call;
}

enum cbn_dtype dtype_of(const struct call *call, int array)
{
    if (array == X || (array >= DY && array <= DDX) || (array >= Y && array <= DRESIDUAL))
        return call->dtype == CBN_UINT8 && array != X ? CBN_FLOAT32 : call->dtype;
    if ((array >= WEIGHT && array <= DDBIAS) || array == DWEIGHT || array == DBIAS)
        return call->param_dtype;
    return array == GIVEN_MEAN || array == GIVEN_VAR ? call->stat_dtype : CBN_FLOAT64;
}

size_t count_of(const struct call *call, int array)
{
    const ptrdiff_t positions = call->outer * call->inner, values = positions * call->channels;
    if (array <= DDX || (array >= Y && array <= DRESIDUAL))
        return (size_t)values;
    if (array == POSITIONS)
        return (size_t)positions;
    return (size_t)(call->operation == SUM ? 1 : call->channels);
}

size_t size_of(const struct call *call, int array)
{
    return count_of(call, array) * cbn_itemsize(dtype_of(call, array));
}

/* The bytes that were given, over and over, as they are or as values of two digits; always the same for one array. */
static void fill(void *to, const struct call *call, int array)
{
    const size_t size = size_of(call, array), length = call->length;
    const enum cbn_dtype dtype = dtype_of(call, array);
    uint8_t *bytes = to;
    if (!length || call->writes & BIT(array) & ~ALL_READ) {
        memset(to, length ? 0x5a : 0, size);
    } else if (call->filling || dtype == CBN_UINT8) {
        for (size_t i = 0; i < size; i++)
            bytes[i] = call->contents[(i + (size_t)array * 5) % length];
    } else {
        for (size_t i = 0; i < count_of(call, array); i++) {
            const unsigned b = call->contents[(i * 7 + (size_t)array * 3) % length];
            const double value = ((double)b - 64) / (1 + (double)(i % 13));
            cbn_store(to, dtype, (ptrdiff_t)i, value);
        }
    }
}

/* NaN is not a weight: nobody can say how often such a value counts. */
static void mend_positions(double *weights, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (weights[i] != weights[i])
            weights[i] = 0.5;
}

struct arrays make_arrays(const struct call *call)
{
    struct arrays a = {{0}, {0}};
    for (int i = 0; i < ARRAYS; i++) {
        if (!(call->uses & BIT(i)))
            continue;
        const size_t before = i == Y ? call->shift * cbn_itemsize(dtype_of(call, i)) : 0;
        a.rooms[i] = malloc(before + size_of(call, i));
        CHECK(a.rooms[i] || !(before + size_of(call, i)), "memory of the test");
        a.at[i] = (char *)a.rooms[i] + before;
        fill(a.at[i], call, i);
    }
    if (a.at[POSITIONS])
        mend_positions(a.at[POSITIONS], count_of(call, POSITIONS));
    return a;
}

void discard(struct arrays *a)
{
    for (int i = 0; i < ARRAYS; i++)
        free(a->rooms[i]);
}
