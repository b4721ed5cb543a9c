/* plan.c: how an array is cut into pieces (which decide the bits) and tasks (which do not).
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <unistd.h>

#include "internal.h"

/* Values of one channel in a piece along rows, and rows of columns in a piece: enough to make the cost of starting
 * and merging a piece vanish, few enough to give every thread work when there are few channels. */
#define PIECE_VALUES 65536
#define PIECE_ROWS 128
/* Most pieces per channel (about): bounds the partial sums to 1 KB per channel. */
#define MOST_PIECES 64
/* Planes smaller than this are summed across channels: a row would be mostly start and end. */
#define SMALL_PLANE 64
/* Narrow rows of columns are widened to at least this many by laying samples side by side. */
#define LEAST_WIDTH 256
/* Bytes that should lie together in memory whenever a task moves on to the next sample. */
#define RUN_BYTES 4096
/* Bytes of each sample that a thread must have for threads to share samples. */
#define APART_BYTES 8192
/* Outputs of at least so many second-level caches bypass them: the reader of a smaller one may still find it there. */
#define STREAMING_CACHES 4

static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b)
{
    return a < b ? a : b;
}

static ptrdiff_t most(ptrdiff_t a, ptrdiff_t b)
{
    return a > b ? a : b;
}

static ptrdiff_t parts_of(ptrdiff_t total, ptrdiff_t part)
{
    return (total + part - 1) / part;
}

/* Samples to lay side by side: the width must reach LEAST_WIDTH, and better be a multiple of all vector widths. */
static ptrdiff_t fold_for(ptrdiff_t outer, ptrdiff_t group)
{
    if (group >= LEAST_WIDTH)
        return 1;
    const ptrdiff_t enough = parts_of(LEAST_WIDTH, group);
    ptrdiff_t fold = enough;
    while (fold * group % 16 && (fold + 1) * group <= CBN_MAX_WIDTH)
        fold++;
    return least(fold * group % 16 ? enough : fold, outer);
}

void cbn_make_plan(struct cbn_plan *plan, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner)
{
    *plan = (struct cbn_plan){.outer = outer, .channels = channels, .inner = inner, .fold = 1};
    const int columns = inner <= 8 || (inner < SMALL_PLANE && outer >= 4);
    plan->layout = columns ? CBN_COLUMNS : CBN_ROWS;
    plan->inner_pieces = 1;
    plan->piece_length = inner;
    if (columns) {
        plan->fold = fold_for(outer, channels * inner);
        const ptrdiff_t rows = parts_of(outer, plan->fold);
        const ptrdiff_t pieces = parts_of(rows, most(PIECE_ROWS, parts_of(rows, MOST_PIECES)));
        plan->piece_outer = plan->fold * parts_of(rows, pieces);
        plan->max_tile = plan->fold > 1 ? channels : most(1, least(channels, CBN_MAX_WIDTH / inner));
    } else {
        const ptrdiff_t values = most(PIECE_VALUES, parts_of(outer * inner, MOST_PIECES));
        if (inner > values) { /* even lengths, in whole lanes */
            plan->piece_length = parts_of(parts_of(inner, parts_of(inner, values)), 16) * 16;
            plan->inner_pieces = parts_of(inner, plan->piece_length);
        }
        const ptrdiff_t pieces = parts_of(outer, most(1, values / plan->piece_length));
        plan->piece_outer = parts_of(outer, pieces);
        plan->max_tile = least(channels, CBN_MAX_LANED_CHANNELS);
    }
    plan->pieces = plan->inner_pieces * parts_of(outer, plan->piece_outer);
}

/* Bytes of the second-level cache, of which a task's data may take a quarter: the next task's come in meanwhile. */
static ptrdiff_t cache_bytes = 1 << 20;

__attribute__((constructor)) static void ask_cache_bytes(void)
{
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long size = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (size > 0)
        cache_bytes = size;
#endif
}

void cbn_plan_tasks(struct cbn_plan *plan, size_t itemsize, int streams, int num_threads)
{
    const ptrdiff_t channels = plan->channels, run = plan->inner * (ptrdiff_t)itemsize;
    const ptrdiff_t slab = most(1, plan->outer * run * most(1, streams));
    plan->streaming = plan->outer * channels * run >= STREAMING_CACHES * cache_bytes;
    /* channels whose slab stays in cache between the steps, in runs that are long enough */
    const ptrdiff_t shortest = parts_of(RUN_BYTES, run);
    ptrdiff_t tile = most(1, least(most(cache_bytes / 4 / slab, shortest), plan->max_tile));
    const ptrdiff_t rounds = parts_of(parts_of(channels, tile), num_threads);
    const ptrdiff_t even = parts_of(channels, rounds * num_threads);
    if (plan->fold > 1) /* samples side by side: no range of channels stands alone */
        tile = channels;
    else if (even >= shortest) /* every thread as much as the others */
        tile = even;
    if (tile > 16 && tile < channels && plan->layout == CBN_COLUMNS) /* whole lines of memory, in whole lanes */
        tile = tile / 16 * 16;
    const ptrdiff_t tasks = parts_of(channels, tile);
    /* Steps in turn read the array again from memory, half as much again; threads without work cost more. Columns
     * are spread over all samples, so that a slab beyond the cache is nothing but short runs. */
    plan->fused = streams > 0 && 2 * num_threads * parts_of(tasks, num_threads) <= 3 * tasks &&
                  (plan->layout == CBN_ROWS || num_threads == 1 || tile * slab <= 2 * cache_bytes);
    plan->by_range = 0;
    if (!plan->fused && plan->fold == 1) {
        /* Ranges of channels can be equal, pieces cannot. But two threads that write next to each other in every short
         * sample take lines of memory away from each other. */
        const ptrdiff_t ranges = parts_of(parts_of(channels, plan->max_tile), num_threads) * num_threads;
        plan->by_range = num_threads > 1 && ranges <= channels && channels * run / num_threads >= APART_BYTES;
        tile = plan->by_range ? parts_of(channels, ranges) : plan->max_tile;
    }
    plan->tile = tile;
}

ptrdiff_t cbn_plan_block(struct cbn_block *block, const struct cbn_plan *plan, ptrdiff_t piece, ptrdiff_t first,
                         ptrdiff_t last)
{
    *block = (struct cbn_block){
        .outer = plan->outer,
        .channels = last - first,
        .inner = plan->inner,
        .length = plan->inner,
        .stride = plan->channels * plan->inner,
        .fold = plan->fold,
        .streaming = plan->streaming,
        .backward = piece < 0,
    };
    if (piece < 0)
        return first * plan->inner;
    const ptrdiff_t o = piece / plan->inner_pieces * plan->piece_outer;
    const ptrdiff_t i = piece % plan->inner_pieces * plan->piece_length;
    block->outer = least(plan->piece_outer, plan->outer - o);
    block->length = least(plan->piece_length, plan->inner - i);
    return (o * plan->channels + first) * plan->inner + i;
}
