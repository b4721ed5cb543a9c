/* schedule.c: runs the steps of an operation over blocks and threads; the only file with OpenMP.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Which thread runs which task, and in which order, never changes a result: every task writes its own partial sums
 * or its own part of the output. */
#include <stdlib.h>

#include "internal.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

/* Values of x that each thread must have: some ten microseconds, against a few to start and join a team. */
#define VALUES_PER_THREAD (CBN_LEAST_PARALLEL / 2)

unsigned long long cbn_fp_enter(void)
{
#if defined(__SSE2__)
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return saved;
#elif defined(__aarch64__)
    unsigned long long saved, standard = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(standard));
    return saved;
#else
    return 0;
#endif
}

void cbn_fp_leave(unsigned long long saved)
{
#if defined(__SSE2__)
    _mm_setcsr((unsigned)saved);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(saved));
#else
    (void)saved;
#endif
}

int cbn_openmp_max_threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

int cbn_openmp_num_procs(void)
{
#ifdef _OPENMP
    return omp_get_num_procs();
#else
    return 1;
#endif
}

int cbn_openmp_version(void)
{
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}

#if defined(_OPENMP) && defined(__GNUC__) && !defined(__clang__)
#include <pthread.h>

/* A child of fork has libgomp's threads in its books but not in its process, and would wait for them for ever.
 * Ending them before the fork lets both sides start new ones. LLVM's runtime looks after itself, and does not
 * survive this call. */
static void end_threads_before_fork(void)
{
    omp_pause_resource_all(omp_pause_hard);
}

__attribute__((constructor)) static void survive_fork(void)
{
    pthread_atfork(end_threads_before_fork, NULL, NULL);
}
#endif

void cbn_set_output(struct cbn_output *out, const struct cbn_job *job, ptrdiff_t piece, ptrdiff_t first,
                    ptrdiff_t last)
{
    const ptrdiff_t at = cbn_plan_block(&out->block, &job->plan, piece, first, last) * (ptrdiff_t)job->ops->itemsize;
    out->x = (const char *)job->x + at;
    out->dy = job->dy ? (const char *)job->dy + at : NULL;
    out->y = (char *)job->y + at;
    out->mean = job->mean + first;
    out->scale = job->scale + first;
    out->shift = job->shift + first;
    out->slope = job->slope ? job->slope + first : NULL;
}

static ptrdiff_t tiles(const struct cbn_plan *plan)
{
    return (plan->channels + plan->tile - 1) / plan->tile;
}

static ptrdiff_t tile_end(const struct cbn_plan *plan, ptrdiff_t first)
{
    return first + plan->tile < plan->channels ? first + plan->tile : plan->channels;
}

/* All steps on one range of channels after the other. The output of each range is written while the sums of the next
 * one are taken. */
static void run_fused(struct cbn_job *job, const struct cbn_step *step, int steps, ptrdiff_t task, ptrdiff_t end)
{
    struct cbn_output out;
    out.advance = NULL;
    for (; task < end; task++) {
        const ptrdiff_t first = task * job->plan.tile, last = tile_end(&job->plan, first);
        for (int s = 0; s < steps; s++) {
            if (step[s].needed && !step[s].needed(job, first, last))
                continue;
            if (step[s].kind == CBN_PER_BLOCK)
                for (ptrdiff_t piece = 0; piece < job->plan.pieces; piece++)
                    step[s].run(job, piece, first, last, &out);
            else {
                if (step[s].kind == CBN_OUTPUT)
                    cbn_advance(&out, PTRDIFF_MAX);
                step[s].run(job, -1, first, last, &out);
            }
        }
    }
    cbn_advance(&out, PTRDIFF_MAX);
}

/* One step on one block after the other. */
static void run_blocks(struct cbn_job *job, const struct cbn_step *step, ptrdiff_t task, ptrdiff_t end)
{
    const ptrdiff_t pieces = job->plan.pieces, ranges = tiles(&job->plan);
    struct cbn_output out;
    out.advance = NULL;
    for (; task < end; task++) {
        /* outputs in reverse: what was read last is most likely still in cache */
        const ptrdiff_t block = step->kind == CBN_OUTPUT ? pieces * ranges - 1 - task : task;
        const ptrdiff_t piece = job->plan.by_range ? block % pieces : block / ranges;
        const ptrdiff_t first = (job->plan.by_range ? block / pieces : block % ranges) * job->plan.tile;
        step->run(job, piece, first, tile_end(&job->plan, first), &out);
        cbn_advance(&out, PTRDIFF_MAX);
    }
}

/* The share of one of `threads` threads. Where the steps run in turn, each waits for all threads to finish the one
 * before; whether a step is needed is the same to all, because nobody writes what that depends on meanwhile. */
static void run_share(struct cbn_job *job, const struct cbn_step *steps, int count, ptrdiff_t thread, ptrdiff_t threads)
{
    const struct cbn_plan *plan = &job->plan;
    const ptrdiff_t channels = plan->channels, ranges = tiles(plan), blocks = plan->pieces * ranges;
    if (plan->fused) {
        run_fused(job, steps, count, ranges * thread / threads, ranges * (thread + 1) / threads);
        return;
    }
    for (int s = 0; s < count; s++) {
        if (steps[s].needed && !steps[s].needed(job, 0, channels))
            continue;
        if (steps[s].kind == CBN_PER_CHANNEL)
            steps[s].run(job, -1, channels * thread / threads, channels * (thread + 1) / threads, NULL);
        else
            run_blocks(job, &steps[s], blocks * thread / threads, blocks * (thread + 1) / threads);
#ifdef _OPENMP
        if (threads > 1) { /* a barrier that nobody else of our team reaches could be the caller's */
#pragma omp barrier
        }
#endif
    }
}

void cbn_run_steps(struct cbn_job *job, const struct cbn_step *steps, int count, int streams, int num_threads)
{
    struct cbn_plan *plan = &job->plan;
    const ptrdiff_t worthwhile = plan->outer * plan->channels * plan->inner / VALUES_PER_THREAD;
    if (num_threads > worthwhile)
        num_threads = worthwhile > 1 ? (int)worthwhile : 1;
    cbn_plan_tasks(plan, job->ops->itemsize, streams, num_threads);
#ifdef _OPENMP
    const ptrdiff_t tasks = tiles(plan) * (plan->fused ? 1 : plan->pieces);
    if (num_threads > tasks) {
        num_threads = (int)tasks;
        cbn_plan_tasks(plan, job->ops->itemsize, streams, num_threads);
    }
    if (num_threads > 1) {
#pragma omp parallel num_threads(num_threads)
        {
            const unsigned long long saved = cbn_fp_enter();
            run_share(job, steps, count, omp_get_thread_num(), omp_get_num_threads());
            cbn_fp_leave(saved);
        }
        return;
    }
#endif
    const unsigned long long saved = cbn_fp_enter();
    run_share(job, steps, count, 0, 1);
    cbn_fp_leave(saved);
}

int cbn_job_alloc(struct cbn_job *job, double **arrays[], int count, int parts)
{
    const size_t channels = (size_t)job->plan.channels, pieces = parts ? (size_t)job->plan.pieces : 0;
    double *next = malloc((channels * ((size_t)count + 2 * pieces) + 1) * sizeof(double));
    if (next == NULL)
        return CBN_NO_MEMORY;
    job->workspace = next;
    for (int i = 0; i < count; i++, next += channels)
        *arrays[i] = next;
    job->sum_parts = next;
    job->dot_parts = next + pieces * channels;
    return CBN_OK;
}
