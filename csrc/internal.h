/* internal.h: what the drivers and the kernels know of each other.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Design. An operation is a list of *steps* (moments.c, forward.c, backward.c,
 * double_backward.c). A step works on the channels of a
 * *region*, or on its values: a range of channels in a range of samples. plan.c cuts the array: into *pieces* by the
 * shape alone, because partial sums are added piece by piece and so decide the bits; into *tiles*, ranges of channels,
 * freely, by caches and threads. schedule.c runs the steps over regions. The kernels
 * (kernels_tmpl.h, compiled once for each instruction set) compute one region serially. */
#ifndef CBN_INTERNAL_H
#define CBN_INTERNAL_H

#include "cbn.h"
#include "half.h"
#include "second.h"

/* The iterations of the next loop are independent: output and input are the same array or do not overlap. */
#if defined(__clang__)
#define CBN_IVDEP _Pragma("clang loop vectorize(assume_safety)")
#else
#define CBN_IVDEP _Pragma("GCC ivdep")
#endif

/* Arrays by channel do not overlap, unless they are the same; the bounds stay what they are, whatever is stored. */
#define CBN_EACH_CHANNEL(region)                                                                                      \
    CBN_IVDEP                                                                                                         \
    for (ptrdiff_t c = (region)->first, end_ = (region)->last; c < end_; c++)

/* columns that a kernel handles at once; their accumulators must fit the L1 cache and the stack */
#define CBN_MAX_WIDTH 1024
/* planes of at least so many values are written channel by channel: a line of memory holds at most two */
#define CBN_LEAST_SPAN 16
/* images whose channels lie side by side are taken apart so much at a time: it stays in the nearest caches, and each
 * plane of y gets some ten thousand values in a row */
#define CBN_IMAGE_BYTES 32768
/* channels that a kernel handles at once when each has its own lanes */
#define CBN_MAX_LANED_CHANNELS 64

/* How one kernel call sees memory: `outer` samples at `stride`, `channels` at `inner`, `length` values of each. */
struct cbn_block {
    ptrdiff_t outer, channels, inner, length, stride;
    ptrdiff_t fold;  /* samples that stand side by side in one row of columns */
    ptrdiff_t chunk; /* samples that are written in their order, the last chunk first: it was read last */
    int streaming;   /* write the output past the cache */
};

/* activation(v) is v where v > 0, else v * slope, or 0 if `keep`, a mask of bits, is not all ones. */
struct cbn_bend {
    double slope;
    int64_t keep;
};

/* The output of one block, written a little at a time, so that the sums of the next block can be taken in between: the
 * stores of one and the loads of the other then overlap. */
struct cbn_output {
    /* writes about so many values more; NULL where nothing is left to write */
    void (*advance)(struct cbn_output *out, ptrdiff_t values);
    struct cbn_block block;
    /* for input_grad, shift is the center; dy, slope and near are not used by affine; what an operation does without
     * is NULL */
    const void *x, *dy, *residual, *activated;
    void *y, *dresidual;
    const double *weights; /* of the positions, from the first sample and value on */
    struct cbn_bend bend;
    const double *mean, *scale, *shift, *slope, *near; /* by channel */
    ptrdiff_t chunk, sample, channel, at; /* position: first sample of the chunk, sample, and `at` in the current run */
    /* Numbers by channel or by column. First mean, scale, shift and slope, in the type that the kernel
     * computes in; then, for dx in float32, three numbers, bits of ones where they apply, and to how many columns
     * before each one they do. */
    _Alignas(64) double column[4][CBN_MAX_WIDTH];
    float near_column[4][CBN_MAX_WIDTH];
    uint16_t near_before[CBN_MAX_WIDTH + 1];
};

static inline void cbn_advance(struct cbn_output *out, ptrdiff_t values)
{
    if (out && out->advance)
        out->advance(out, values);
}

/* ROWS: along the values of one channel. COLUMNS: across channels, down the samples. */
enum cbn_layout { CBN_ROWS = 0, CBN_COLUMNS = 1 };

/* Channels [first, last) of `samples` samples, and of their planes `length` values from `at` on; `piece` is the index
 * of the piece that this is, where it is one. */
struct cbn_region {
    ptrdiff_t first, last, sample, samples, at, length, piece;
};

/* sum of x - anchor and dot of (x - anchor)^2; with dy: sum of dy, dot of dy * (x - anchor), and the
 * largest |x| and |dy|, unless these are NULL. By channel. */
struct cbn_sums {
    double *sum, *dot, *most_x, *most_dy;
};

/* What sums are taken of. Without dy: of x; each value counts as often as its position's weight says. With dy: of what
 * passes back through the activation, if there is one, that gave `activated`, where the position's weight is not
 * negative. */
struct cbn_source {
    const void *x, *dy, *activated;
    const double *weights;
    struct cbn_bend bend;
};

/* The first values that count, CBN_LANES of them or as many as there are: their places, from the channel's first on. */
struct cbn_first {
    ptrdiff_t places[16];
    int count;
};

/* The kernels for one dtype. Channel arrays point at the first channel of the block, x, dy and y at its first value. */
struct cbn_ops {
    size_t itemsize, output_itemsize;
    int is_double; /* arithmetic is done in double */
    double far;    /* an anchor is far from the mean where s^2 / n exceeds so many m2 */
    /* anchor = mean of each channel's first values, or 0 where that is as good; NULL: simply the first ones */
    void (*anchors)(double *anchor, const void *x, const struct cbn_block *block, const struct cbn_first *first);
    void (*sums[2])(const struct cbn_sums *to, const struct cbn_source *from, const double *anchor,
                    const struct cbn_block *block, struct cbn_output *meanwhile);
    /* Open an output, of which all members up to `slope` are set: y = (x - mean) * scale + shift */
    void (*affine[2])(struct cbn_output *out);
    /* or y = scale * ((dy - shift) - slope * (x - mean)) */
    void (*input_grad[2])(struct cbn_output *out);
    /* Images only. Takes pixels of `stride` channels apart: to[c * pixels + i] = from[i * stride + c] */
    void (*split)(uint8_t *to, const uint8_t *from, ptrdiff_t stride, ptrdiff_t channels, ptrdiff_t pixels);
    /* for the gradients of gradients: dot = sum (ddx - mean of ddx) * rest(dy) by channel of a block, and ddy and dx;
     * `first` is its first channel, `at` the index of its first value */
    void (*products[2])(double *dot, const struct cbn_second *of, ptrdiff_t first, ptrdiff_t at,
                        const struct cbn_block *block);
    void (*second)(const struct cbn_second *of, ptrdiff_t first, ptrdiff_t at, const struct cbn_block *block);
};

struct cbn_kernels {
    const char *isa;
    const struct cbn_ops *ops[5]; /* by enum cbn_dtype */
};
const struct cbn_ops *cbn_ops(enum cbn_dtype dtype);

/* What a task is. TURNS: one step on one region; all threads do a step before the next. TILES: all steps on one tile.
 * SHARED: the same, but all threads work on the same tile, each on its own samples. */
enum cbn_tasks { CBN_TURNS, CBN_TILES, CBN_SHARED };

/* How an array is cut. Everything above the line depends on the shape alone, the rest never changes a bit. */
struct cbn_plan {
    ptrdiff_t outer, channels, inner, fold;
    enum cbn_layout layout, output_layout;
    ptrdiff_t piece_outer, piece_length, inner_pieces, pieces;
    ptrdiff_t max_tile, max_output_tile;
    int together; /* threads do not share channels: those of x lie side by side */
    /* ---- */
    ptrdiff_t tile, output_tile; /* channels per task */
    ptrdiff_t chunk;             /* samples that are written in their order */
    int streaming;               /* outputs are written past the cache, in which they would not fit */
    enum cbn_tasks tasks;
    int by_range; /* in turns, the threads share the channels; otherwise they share the samples */
};
/* Bytes of the second-level cache, of which a task's data may take a quarter: the next task's come in meanwhile. Tests
 * set it, to have all plans on small arrays. */
extern ptrdiff_t cbn_cache_bytes;
void cbn_make_plan(struct cbn_plan *plan, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner);
/* The same for images whose channels lie side by side: what one piece has of a tile fits into CBN_IMAGE_BYTES. */
void cbn_make_image_plan(struct cbn_plan *plan, ptrdiff_t outer, ptrdiff_t channels, ptrdiff_t inner);
/* `streams`: arrays that are read twice, and so are worth keeping in cache between the steps; 0 if none is */
void cbn_plan_tasks(struct cbn_plan *plan, size_t itemsize, int streams, int num_threads);
/* All values of channels [first, last). */
struct cbn_region cbn_all_of(const struct cbn_plan *plan, ptrdiff_t first, ptrdiff_t last);
/* The same, of one piece only. */
struct cbn_region cbn_piece_of(const struct cbn_plan *plan, ptrdiff_t piece, ptrdiff_t first, ptrdiff_t last);
/* Describes a region as a block and returns the index of its first value. */
ptrdiff_t cbn_block_of(struct cbn_block *block, const struct cbn_plan *plan, const struct cbn_region *region);

/* One operation: its arrays, its numbers per channel, its cut. Members not used by an operation stay NULL. */
struct cbn_job {
    struct cbn_plan plan;
    const struct cbn_ops *ops;
    const void *x, *dy, *weight, *bias, *running_mean, *running_var, *residual, *activated;
    void *y, *dweight, *dbias, *dresidual; /* y is dx in backward */
    const double *weights; /* of the positions, or NULL; `count` is then their sum */
    double count;          /* values of each channel */
    struct cbn_bend bend;
    struct cbn_first first;
    enum cbn_dtype dtype, param_dtype, stat_dtype; /* dtype in backward only */
    double eps;
    int training;
    /* one value per channel; parts have one per piece and channel */
    double *mean, *mean_rest, *m2, *inv_std, *anchor, *sum, *dot, *scale, *shift, *slope;
    double *far;  /* 1 where the anchor was far from the mean, else 0 */
    double *near; /* 1 where float32 arithmetic is enough for dx, else 0 */
    struct cbn_sums parts;
    void *workspace;
};

/* A step on the channels of a region, on one piece of them, or on any part of the output. PER_PIECE advances `out`,
 * OUTPUT opens it. */
typedef void cbn_step_fn(struct cbn_job *job, const struct cbn_region *region, struct cbn_output *out);
enum cbn_step_kind { CBN_PER_CHANNEL, CBN_PER_PIECE, CBN_OUTPUT };
struct cbn_step {
    cbn_step_fn *run;
    enum cbn_step_kind kind;
    int (*needed)(const struct cbn_job *job, const struct cbn_region *region); /* NULL: always */
};
/* Cuts the work into tasks and runs it; `streams` as in cbn_plan_tasks. */
void cbn_run_steps(struct cbn_job *job, const struct cbn_step *steps, int count, int streams, int num_threads);

/* Takes over what the options say, and counts the values of each channel. The plan must have been made. */
void cbn_set_options(struct cbn_job *job, const struct cbn_options *options);

/* Whether all positions are masked or weigh nothing. The count is not asked, since comparing it outside of the steps
 * would depend on what the caller makes of denormal numbers. */
static inline int cbn_none_counts(const struct cbn_job *job)
{
    return job->weights && job->first.count == 0;
}

/* Gives the job `count` arrays of one double per channel, and the first `parts` arrays of parts; all of it is
 * job->workspace, for the caller to free. */
int cbn_job_alloc(struct cbn_job *job, double **arrays[], int count, int parts);

/* Sets what opening an output needs, from the job's arrays. */
void cbn_set_output(struct cbn_output *out, const struct cbn_job *job, const struct cbn_region *region);

/* Steps that several operations share. */
cbn_step_fn cbn_step_anchors, cbn_step_sums, cbn_step_moments, cbn_step_remoments;
#define CBN_MOMENTS_STEPS                                                                                             \
    {cbn_step_anchors, CBN_PER_CHANNEL, NULL}, {cbn_step_sums, CBN_PER_PIECE, NULL},                                  \
        {cbn_step_moments, CBN_PER_CHANNEL, NULL},                                                                    \
        {cbn_step_sums, CBN_PER_PIECE, cbn_any_far}, {cbn_step_remoments, CBN_PER_CHANNEL, cbn_any_far}
int cbn_any_far(const struct cbn_job *job, const struct cbn_region *region);
/* Adds the parts of a region's channels, in the order of the pieces, to job->sum and job->dot. */
void cbn_merge_parts(struct cbn_job *job, const struct cbn_region *region);
/* Parameters of a region's channels as doubles, or `missing` where there are none; and back. */
void cbn_load_parameters(double *to, const void *from, enum cbn_dtype dtype, const struct cbn_region *region,
                         double missing);
void cbn_store_parameters(void *to, const double *from, enum cbn_dtype dtype, const struct cbn_region *region);

static inline double cbn_load(const void *array, enum cbn_dtype dtype, ptrdiff_t c)
{
    if (dtype == CBN_FLOAT16)
        return (double)cbn_f16_to_float(((const cbn_f16 *)array)[c]);
    if (dtype == CBN_BFLOAT16)
        return (double)cbn_bf16_to_float(((const cbn_bf16 *)array)[c]);
    return dtype == CBN_FLOAT32 ? (double)((const float *)array)[c] : ((const double *)array)[c];
}

static inline void cbn_store(void *array, enum cbn_dtype dtype, ptrdiff_t c, double value)
{
    if (dtype == CBN_FLOAT16)
        ((cbn_f16 *)array)[c] = cbn_float_to_f16(cbn_odd_float(value));
    else if (dtype == CBN_BFLOAT16)
        ((cbn_bf16 *)array)[c] = cbn_float_to_bf16(cbn_odd_float(value));
    else if (dtype == CBN_FLOAT32)
        ((float *)array)[c] = (float)value;
    else
        ((double *)array)[c] = value;
}

static inline size_t cbn_itemsize(enum cbn_dtype dtype)
{
    static const size_t sizes[] = {4, 8, 2, 2, 1};
    return sizes[dtype];
}

/* The threads of a call, in threads.c. It takes as many as it may have now, at least 1 and at most num_threads or
 * `most`, and gives them back. Each thread of a team runs the function with the default rounding and denormal handling,
 * whatever the caller's are. */
struct cbn_team {
    ptrdiff_t thread, threads;
};
typedef void cbn_team_fn(void *work, struct cbn_team team);
int cbn_take_threads(int num_threads, ptrdiff_t most);
void cbn_give_threads(void);
void cbn_run_team(cbn_team_fn *run, void *work, int num_threads);
/* Waits for all threads of the team. */
void cbn_meet(struct cbn_team team);

/* The same state for work outside of teams; enter returns what leave restores. They are out of line, since a compiler
 * may move arithmetic across an inlined switch. The Python extension calls them, too: exported, but not promised. */
CBN_API unsigned long long cbn_fp_enter(void);
CBN_API void cbn_fp_leave(unsigned long long saved);

#endif
