/* threads.c: the threads of a call: how many it gets, how they are run, and the floating-point state of each; the only
 * file with OpenMP.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "internal.h"

#ifdef _OPENMP
#include <errno.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#endif
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

/* --- the floating-point state --- */

unsigned long long cbn_fp_enter(void)
{
#if defined(__SSE2__)
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return saved;
#elif defined(__aarch64__)
    unsigned long long control, status;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(control), "=r"(status));
    __asm__ volatile("msr fpcr, xzr");
    return status << 32 | control; /* both have 32 bits */
#else
    return 0;
#endif
}

void cbn_fp_leave(unsigned long long saved)
{
#if defined(__SSE2__)
    _mm_setcsr((unsigned)saved);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(saved & 0xffffffff), "r"(saved >> 32));
#else
    (void)saved;
#endif
}

static void run_one(cbn_team_fn *run, void *work, struct cbn_team team)
{
    const unsigned long long saved = cbn_fp_enter();
    run(work, team);
    cbn_fp_leave(saved);
}

#ifndef _OPENMP

int cbn_openmp_max_threads(void)
{
    return 1;
}

int cbn_openmp_num_procs(void)
{
    return 1;
}

int cbn_openmp_thread_limit(void)
{
    return 1;
}

int cbn_openmp_version(void)
{
    return 0;
}

int cbn_take_threads(int num_threads, ptrdiff_t most)
{
    (void)num_threads, (void)most;
    return 1;
}

void cbn_give_threads(void)
{
}

void cbn_run_team(cbn_team_fn *run, void *work, int num_threads)
{
    (void)num_threads;
    run_one(run, work, (struct cbn_team){0, 1});
}

void cbn_meet(struct cbn_team team)
{
    (void)team;
}

#else

int cbn_openmp_max_threads(void)
{
    return omp_get_max_threads();
}

int cbn_openmp_num_procs(void)
{
#if defined(__clang__) && defined(__linux__) /* LLVM's runtime counts them when it starts, and never again */
    unsigned long cpus[128]; /* bits of 8192, the most that Linux has */
    const long size = syscall(SYS_sched_getaffinity, 0, sizeof cpus, cpus);
    int count = 0;
    for (long i = 0; i < size / (long)sizeof *cpus; i++)
        count += __builtin_popcountl(cpus[i]);
    if (count > 0)
        return count;
#endif
    return omp_get_num_procs();
}

int cbn_openmp_thread_limit(void)
{
    return omp_get_thread_limit();
}

int cbn_openmp_version(void)
{
    return _OPENMP;
}

/* --- how many threads a call gets --- */

/* Calls that have taken threads and not yet given them back. */
static atomic_int calls;
/* By thread, since GNU's runtime keeps threads for each that calls it: how many the last team of its had. Those of a
 * larger one before it have ended, and inside of another team none are kept. */
static pthread_key_t started;
static int knows_started; /* whether there is that key: without it each team is tried */

static void set_started(int threads)
{
    if (knows_started)
        pthread_setspecific(started, (void *)(intptr_t)threads);
}

/* A thread that is started to see whether it can be. */
struct trial {
    pthread_mutex_t *gate;
    pthread_t thread;
    long id;
};

static void *wait_at_gate(void *data)
{
    struct trial *trial = data;
#ifdef __linux__
    trial->id = syscall(SYS_gettid);
#endif
    pthread_mutex_lock(trial->gate);
    pthread_mutex_unlock(trial->gate);
    return NULL;
}

/* Returns when the thread has ended in the kernel's books, too, which count it for a moment after it was joined. */
static void wait_for_end(const struct trial *trial)
{
    pthread_join(trial->thread, NULL);
#ifdef __linux__
    for (int patience = 10000; patience > 0 && !syscall(SYS_tgkill, (long)getpid(), trial->id, 0); patience--)
        sched_yield(); /* GCOVR_EXCL_LINE: mostly, it has ended by then */
#else
    (void)trial;
#endif
}

/* Whether so many threads can be started at the same time, and have some memory for the runtime's books: where they
 * cannot, the runtime ends the process. */
static int can_start(int threads)
{
    enum { BOOKS = 1 << 14 };
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    struct trial *trials = malloc((size_t)threads * (sizeof *trials + BOOKS));
    int count = 0;
    if (trials == NULL)
        return 0;
    pthread_mutex_lock(&gate);
    for (; count < threads; count++) {
        trials[count].gate = &gate;
        if (pthread_create(&trials[count].thread, NULL, wait_at_gate, &trials[count]))
            break;
    }
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < count; i++)
        wait_for_end(&trials[i]);
    free(trials);
    return count == threads;
}

int cbn_take_threads(int num_threads, ptrdiff_t most)
{
    /* those at the same time share what one would have */
    int threads = num_threads / (atomic_fetch_add(&calls, 1) + 1);
    if (threads > most)
        threads = (int)most;
    if (threads > omp_get_thread_limit())
        threads = omp_get_thread_limit();
    if (threads <= 1 || omp_get_active_level() >= omp_get_max_active_levels())
        return 1;
    const int kept = knows_started && !omp_get_level() ? (int)(intptr_t)pthread_getspecific(started) : 0;
    const int missing = threads - (kept > 1 ? kept : 1), saved = errno;
    if (missing > 0 && !can_start(missing))
        threads = 1;
    errno = saved;
    return threads;
}

void cbn_give_threads(void)
{
    atomic_fetch_sub(&calls, 1);
}

/* --- fork --- */

#ifndef _WIN32 /* which has none */
#if defined(__GNUC__) && !defined(__clang__)
/* A child of fork has the threads of GNU's runtime in its books but not in its process, and would wait for them for
 * ever. Ending them before the fork lets both sides start new ones. LLVM's runtime looks after itself, and does not
 * survive this call. */
static void before_fork(void)
{
    omp_pause_resource_all(omp_pause_hard);
    set_started(0);
}
#else
#define before_fork NULL
#endif

/* Only the thread that forked lives on, and it is in no call. */
static void in_child(void)
{
    atomic_store(&calls, 0);
    set_started(0);
}

#endif

__attribute__((constructor)) static void prepare(void)
{
    knows_started = !pthread_key_create(&started, NULL);
#ifndef _WIN32
    pthread_atfork(before_fork, NULL, in_child);
#endif
}

/* --- a team --- */

void cbn_run_team(cbn_team_fn *run, void *work, int num_threads)
{
    if (num_threads == 1) {
        run_one(run, work, (struct cbn_team){0, 1});
        return;
    }
#pragma omp parallel num_threads(num_threads)
    {
        const struct cbn_team team = {omp_get_thread_num(), omp_get_num_threads()};
        if (team.thread == 0 && omp_get_level() == 1)
            set_started((int)team.threads);
        run_one(run, work, team);
    }
}

void cbn_meet(struct cbn_team team)
{
    if (team.threads > 1) { /* a barrier that nobody else of our team reaches could be the caller's */
#pragma omp barrier
    }
}

#endif
