/* plan.c: how an array is cut into pieces (which decide the bits) and tasks (which do not).
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <unistd.h>

#include "internal.h"

/* Values of one channel in a piece along rows, and rows of columns in a piece: enough to make the cost of starting
 * and merging a piece vanish, few enough to give every thread work when there are few channels. */
#define PIECE_VALUES 16384
#define PIECE_ROWS 128
/* Most pieces per channel, within a factor of two: bounds the partial sums to 2 KB per channel, in backward 4 KB. */
#define MOST_PIECES 64
/* Planes smaller than this are summed across channels: a row would be mostly start and end. */
#define SMALL_PLANE 64
/* Narrow rows of columns are widened to at least this many by laying samples side by side. */
#define LEAST_WIDTH 256
/* Bytes that should lie together in memory whenever a task moves on to the next sample. */
#define RUN_BYTES 4096
/* Bytes of each sample that a thread must have for threads to share samples. */
#define APART_BYTES 8192
/* Channels of images that are taken apart at once: each then has a few lines of memory in a row. */
#define IMAGE_CHANNELS 128
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

/* Sums down columns, in pieces of rows. */
static void plan_columns(struct cbn_plan *plan)
{
    plan->layout = CBN_COLUMNS;
    plan->fold = fold_for(plan->outer, plan->channels * plan->inner);
    const ptrdiff_t rows = parts_of(plan->outer, plan->fold);
    const ptrdiff_t pieces = parts_of(rows, most(PIECE_ROWS, parts_of(rows, MOST_PIECES)));
    plan->piece_outer = plan->fold * parts_of(rows, pieces);
    plan->max_tile = plan->fold > 1 ? plan->channels : most(1, least(plan->channels, CBN_MAX_WIDTH / plan->inner));
}

/* Sums along rows, in pieces of planes or of parts of one, which have even lengths, in whole lanes. */
static void plan_rows(struct cbn_plan *plan)
{
    const ptrdiff_t inner = plan->inner, values = most(PIECE_VALUES, parts_of(plan->outer * inner, MOST_PIECES));
    plan->layout = CBN_ROWS;
    if (inner > values) {
        plan->piece_length = parts_of(parts_of(inner, parts_of(inner, values)), 16) * 16;
        plan->inner_pieces = parts_of(inner, plan->piece_length);
    }
    plan->piece_outer = 1; /* a power of two, as most batches are */
    while (2 * plan->piece_outer * plan->piece_length <= values && plan->piece_outer < plan->outer)
        plan->piece_outer *= 2;
    plan->max_tile = least(plan->channels, CBN_MAX_LANED_CHANNELS);
}

void cbn_make_plan(struct cbn_plan *plan, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner)
{
    *plan = (struct cbn_plan){.outer = outer, .channels = channels, .inner = inner, .fold = 1, .inner_pieces = 1,
                              .piece_length = inner};
    if (inner <= 8 || (inner < SMALL_PLANE && outer >= 4))
        plan_columns(plan);
    else
        plan_rows(plan);
    plan->pieces = plan->inner_pieces * parts_of(outer, plan->piece_outer);
    plan->output_layout = inner >= CBN_LEAST_SPAN && plan->fold == 1 ? CBN_ROWS : CBN_COLUMNS;
    plan->max_output_tile = plan->output_layout == CBN_ROWS ? least(channels, CBN_MAX_WIDTH) : plan->max_tile;
}

void cbn_make_image_plan(struct cbn_plan *plan, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner)
{
    const ptrdiff_t tile = least(channels, IMAGE_CHANNELS), room = CBN_IMAGE_BYTES / tile / 16 * 16;
    *plan = (struct cbn_plan){.outer = outer, .channels = channels, .inner = inner, .fold = 1, .inner_pieces = 1,
                              .piece_length = inner, .layout = CBN_ROWS, .output_layout = CBN_ROWS, .max_tile = tile,
                              .max_output_tile = tile, .together = 1};
    if (inner > room) { /* even lengths, in whole lines */
        plan->piece_length = parts_of(parts_of(inner, parts_of(inner, room)), 16) * 16;
        plan->inner_pieces = parts_of(inner, plan->piece_length);
    }
    plan->piece_outer = most(1, least(room / inner, outer));
    plan->pieces = plan->inner_pieces * parts_of(outer, plan->piece_outer);
}

ptrdiff_t cbn_cache_bytes = 1 << 20;

__attribute__((constructor)) static void ask_cache_bytes(void)
{
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long size = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (size > 0)
        cbn_cache_bytes = size;
#endif
}

/* The least number of ranges of at most `tile` channels that gives each thread as many as the others. */
static ptrdiff_t even_ranges(ptrdiff_t channels, ptrdiff_t tile, int num_threads)
{
    return parts_of(parts_of(channels, tile), num_threads) * num_threads;
}

/* Tiles whose slab stays in cache between the steps, in runs that are long enough; TURNS where there are none. */
static void plan_tiles(struct cbn_plan *plan, ptrdiff_t run, ptrdiff_t slab, int num_threads)
{
    const ptrdiff_t channels = plan->channels, shortest = parts_of(RUN_BYTES, run), room = cbn_cache_bytes / 4;
    const ptrdiff_t groups = plan->pieces / plan->inner_pieces;
    if (num_threads > 1 && num_threads <= groups && plan->layout == CBN_ROWS && slab > room &&
        8 * parts_of(groups, num_threads) * num_threads <= 9 * groups) {
        plan->tile = most(1, least(most(room * num_threads / slab, shortest), plan->max_tile));
        plan->tasks = CBN_SHARED;
        return;
    }
    ptrdiff_t tile = most(1, least(most(room / slab, shortest), plan->max_tile));
    const ptrdiff_t even = parts_of(channels, even_ranges(channels, tile, num_threads));
    if (plan->fold > 1) /* samples side by side: no range of channels stands alone */
        tile = channels;
    else if (even >= shortest) /* every thread as much as the others */
        tile = even;
    if (tile > 16 && tile < channels && plan->layout == CBN_COLUMNS) /* whole lines of memory, in whole lanes */
        tile = tile / 16 * 16;
    plan->tile = tile;
    /* Turns read the array again from memory, half as much again; threads without work cost more. Columns are spread
     * over all samples, so that a slab beyond the cache is nothing but short runs. */
    const ptrdiff_t tasks = parts_of(channels, tile);
    if (2 * num_threads * parts_of(tasks, num_threads) <= 3 * tasks &&
        (plan->layout == CBN_ROWS || num_threads == 1 || tile * slab <= 2 * cbn_cache_bytes))
        plan->tasks = CBN_TILES;
}

void cbn_plan_tasks(struct cbn_plan *plan, size_t itemsize, int streams, int num_threads)
{
    const ptrdiff_t channels = plan->channels, run = plan->inner * (ptrdiff_t)itemsize;
    plan->streaming = plan->outer * channels * run >= STREAMING_CACHES * cbn_cache_bytes;
    plan->tasks = CBN_TURNS;
    plan->by_range = 0;
    plan->chunk = streams > 0 ? plan->piece_outer : plan->outer;
    if (streams > 0)
        plan_tiles(plan, run, plan->outer * run * streams, num_threads);
    if (plan->tasks != CBN_TURNS) {
        plan->output_tile = plan->tile;
        plan->chunk = plan->fold;
        return;
    }
    plan->tile = plan->max_tile;
    plan->output_tile = plan->max_output_tile;
    if (plan->fold > 1 || plan->together || num_threads == 1)
        return;
    /* Ranges of channels can be equal, pieces cannot. But two threads that write next to each other in every short
     * sample take lines of memory away from each other. */
    const ptrdiff_t ranges = even_ranges(channels, plan->max_tile, num_threads);
    const ptrdiff_t even = parts_of(channels, ranges);
    plan->by_range = 8 * even * ranges <= 9 * channels && channels * run / num_threads >= APART_BYTES;
    if (plan->by_range) {
        plan->tile = even;
        plan->output_tile = parts_of(channels, even_ranges(channels, plan->max_output_tile, num_threads));
    }
}

struct cbn_region cbn_all_of(const struct cbn_plan *plan, ptrdiff_t first, ptrdiff_t last)
{
    return (struct cbn_region){first, last, 0, plan->outer, 0, plan->inner, 0};
}

struct cbn_region cbn_piece_of(const struct cbn_plan *plan, ptrdiff_t piece, ptrdiff_t first, ptrdiff_t last)
{
    const ptrdiff_t o = piece / plan->inner_pieces * plan->piece_outer;
    const ptrdiff_t i = piece % plan->inner_pieces * plan->piece_length;
    return (struct cbn_region){
        first, last, o, least(plan->piece_outer, plan->outer - o), i, least(plan->piece_length, plan->inner - i), piece,
    };
}

ptrdiff_t cbn_block_of(struct cbn_block *block, const struct cbn_plan *plan, const struct cbn_region *region)
{
    *block = (struct cbn_block){
        .outer = region->samples,
        .channels = region->last - region->first,
        .inner = plan->inner,
        .length = region->length,
        .stride = plan->channels * plan->inner,
        .fold = plan->fold,
        .chunk = plan->chunk,
        .streaming = plan->streaming,
    };
    return (region->sample * plan->channels + region->first) * plan->inner + region->at;
}
