/* schedule.c: runs the steps of an operation over blocks and threads.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Which thread runs which task, and in which order, never changes a result: every task writes its own partial sums
 * or its own part of the output. */
#include "internal.h"

/* Values of x that each thread must have: some ten microseconds, against a few to start and join a team. */
#define VALUES_PER_THREAD (CBN_LEAST_PARALLEL / 2)

/* `share` and `share_end` bound a thread's part of some work. */
static ptrdiff_t share(struct cbn_team team, ptrdiff_t work)
{
    return work * team.thread / team.threads;
}

static ptrdiff_t share_end(struct cbn_team team, ptrdiff_t work)
{
    return work * (team.thread + 1) / team.threads;
}

static ptrdiff_t ranges(const struct cbn_plan *plan, ptrdiff_t tile)
{
    return (plan->channels + tile - 1) / tile;
}

static struct cbn_region tile_of(const struct cbn_plan *plan, ptrdiff_t tile, ptrdiff_t range)
{
    const ptrdiff_t first = range * tile, last = first + tile;
    return cbn_all_of(plan, first, last < plan->channels ? last : plan->channels);
}

/* The samples [sample, end) of a region, or as many as there are. */
static struct cbn_region samples_of(const struct cbn_plan *plan, struct cbn_region region, ptrdiff_t sample,
                                    ptrdiff_t end)
{
    region.sample = sample;
    region.samples = (end < plan->outer ? end : plan->outer) - sample;
    return region;
}

/* The channels that are a thread's share. */
static struct cbn_region channels_of(const struct cbn_plan *plan, struct cbn_team team)
{
    return cbn_all_of(plan, share(team, plan->channels), share_end(team, plan->channels));
}

/* The steps on channels that come before all others, on all channels; returns how many these are. */
static int run_first(struct cbn_job *job, const struct cbn_step *steps, struct cbn_team team)
{
    const struct cbn_region mine = channels_of(&job->plan, team);
    int s = 0;
    for (; steps[s].kind == CBN_PER_CHANNEL; s++)
        steps[s].run(job, &mine, NULL);
    cbn_meet(team);
    return s;
}

/* All steps on the tiles [tile, end), one after the other; the output of each is written while the sums of the next
 * are taken. A team that has more than one thread shares the pieces of each tile, and its first thread does the steps
 * on channels. Whether a step is needed is the same to all threads, because nobody writes what that depends on before
 * they have met again. */
static void run_tiles(struct cbn_job *job, const struct cbn_step *steps, int count, ptrdiff_t tile, ptrdiff_t end,
                      struct cbn_team team)
{
    const struct cbn_plan *plan = &job->plan;
    const ptrdiff_t groups = plan->pieces / plan->inner_pieces; /* the pieces of one sample stay together */
    const ptrdiff_t group = share(team, groups), end_group = share_end(team, groups);
    const ptrdiff_t first_piece = group * plan->inner_pieces, end_piece = end_group * plan->inner_pieces;
    struct cbn_output out;
    out.advance = NULL;
    int start = 0;
    if (team.threads > 1) /* what comes before the sums is done at once, to meet less often */
        start = run_first(job, steps, team);
    for (; tile < end; tile++) {
        const struct cbn_region region = tile_of(plan, plan->tile, tile);
        for (int s = start; s < count; s++) {
            if (steps[s].needed && !steps[s].needed(job, &region))
                continue;
            if (steps[s].kind == CBN_PER_PIECE)
                for (ptrdiff_t piece = first_piece; piece < end_piece; piece++) {
                    const struct cbn_region part = cbn_piece_of(plan, piece, region.first, region.last);
                    steps[s].run(job, &part, &out);
                }
            else if (steps[s].kind == CBN_OUTPUT) {
                if (group == end_group)
                    continue; /* GCOVR_EXCL_LINE: no team has been larger than its groups so far */
                const struct cbn_region part =
                    samples_of(plan, region, group * plan->piece_outer, end_group * plan->piece_outer);
                cbn_advance(&out, PTRDIFF_MAX);
                steps[s].run(job, &part, &out);
                continue;
            } else if (team.thread == 0)
                steps[s].run(job, &region, NULL);
            const struct cbn_step *next = s + 1 < count ? &steps[s + 1] : NULL;
            if (steps[s].kind != CBN_PER_CHANNEL || (next && (next->kind != CBN_PER_CHANNEL || next->needed)))
                cbn_meet(team);
        }
    }
    cbn_advance(&out, PTRDIFF_MAX);
}

/* One step on a thread's share of the pieces; those of an output in reverse, because what was read last is most likely
 * still in cache. */
static void run_pieces(struct cbn_job *job, const struct cbn_step *step, struct cbn_team team)
{
    const struct cbn_plan *plan = &job->plan;
    const ptrdiff_t tiles = ranges(plan, plan->tile), first = share(team, plan->pieces * tiles);
    const ptrdiff_t end = share_end(team, plan->pieces * tiles);
    struct cbn_output out;
    out.advance = NULL;
    for (ptrdiff_t task = first; task < end; task++) {
        const ptrdiff_t at = step->kind == CBN_OUTPUT ? end - 1 - (task - first) : task;
        const ptrdiff_t piece = plan->by_range ? at % plan->pieces : at / tiles;
        const struct cbn_region tile = tile_of(plan, plan->tile, plan->by_range ? at / plan->pieces : at % tiles);
        const struct cbn_region region = cbn_piece_of(plan, piece, tile.first, tile.last);
        step->run(job, &region, &out);
        cbn_advance(&out, PTRDIFF_MAX);
    }
}

/* A thread's share of an output of whole planes: its tiles, or its samples of all tiles. */
static void run_output(struct cbn_job *job, const struct cbn_step *step, struct cbn_team team)
{
    const struct cbn_plan *plan = &job->plan;
    const struct cbn_team alone = {0, 1};
    const struct cbn_team by_tile = plan->by_range ? team : alone, by_row = plan->by_range ? alone : team;
    const ptrdiff_t tiles = ranges(plan, plan->output_tile), rows = (plan->outer + plan->fold - 1) / plan->fold;
    const ptrdiff_t sample = share(by_row, rows) * plan->fold, end = share_end(by_row, rows) * plan->fold;
    struct cbn_output out;
    out.advance = NULL;
    if (sample == end)
        return;
    for (ptrdiff_t tile = share_end(by_tile, tiles) - 1; tile >= share(by_tile, tiles); tile--) {
        const struct cbn_region region = samples_of(plan, tile_of(plan, plan->output_tile, tile), sample, end);
        step->run(job, &region, &out);
        cbn_advance(&out, PTRDIFF_MAX);
    }
}

/* How many threads can have work. */
static ptrdiff_t tasks_of(const struct cbn_plan *plan)
{
    const ptrdiff_t tiles = ranges(plan, plan->tile);
    if (plan->tasks == CBN_SHARED)
        return plan->pieces / plan->inner_pieces;
    return plan->tasks == CBN_TILES ? tiles : plan->pieces * tiles;
}

/* All steps in turn; each waits for all threads to finish the one before. */
static void run_turns(struct cbn_job *job, const struct cbn_step *steps, int count, struct cbn_team team)
{
    const struct cbn_plan *plan = &job->plan;
    const struct cbn_region all = cbn_all_of(plan, 0, plan->channels);
    const struct cbn_region channels = channels_of(plan, team);
    for (int s = 0; s < count; s++) {
        if (steps[s].needed && !steps[s].needed(job, &all))
            continue;
        if (steps[s].kind == CBN_PER_CHANNEL)
            steps[s].run(job, &channels, NULL);
        else if (steps[s].kind == CBN_OUTPUT && plan->inner_pieces == 1)
            run_output(job, &steps[s], team);
        else
            run_pieces(job, &steps[s], team);
        cbn_meet(team);
    }
}

struct work {
    struct cbn_job *job;
    const struct cbn_step *steps;
    int count;
};

/* The share of one thread. */
static void run_share(void *data, struct cbn_team team)
{
    const struct work *work = data;
    const struct cbn_team alone = {0, 1};
    const ptrdiff_t tiles = ranges(&work->job->plan, work->job->plan.tile);
    if (work->job->plan.tasks == CBN_TURNS)
        run_turns(work->job, work->steps, work->count, team);
    else if (work->job->plan.tasks == CBN_TILES)
        run_tiles(work->job, work->steps, work->count, share(team, tiles), share_end(team, tiles), alone);
    else
        run_tiles(work->job, work->steps, work->count, 0, tiles, team);
}

void cbn_run_steps(struct cbn_job *job, const struct cbn_step *steps, int count, int streams, int num_threads)
{
    struct cbn_plan *plan = &job->plan;
    struct work work = {job, steps, count};
    const ptrdiff_t worthwhile = plan->outer * plan->channels * plan->inner / VALUES_PER_THREAD;
    const int large = worthwhile > 1; /* the others are not worth the count of calls */
    num_threads = large ? cbn_take_threads(num_threads, worthwhile) : 1;
    cbn_plan_tasks(plan, job->ops->output_itemsize, streams, num_threads);
    while (num_threads > tasks_of(plan)) { /* a plan for fewer threads may be of another kind, with fewer tasks still */
        num_threads = (int)tasks_of(plan);
        cbn_plan_tasks(plan, job->ops->output_itemsize, streams, num_threads);
    }
    cbn_run_team(run_share, &work, num_threads);
    if (large)
        cbn_give_threads();
}
