/* allocations.c: preloaded, it makes the n-th allocation of a process fail, and only that one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static atomic_long left; /* allocations until the one that fails; 0: none will */
static atomic_long spared; /* that libgomp made, which ends the process where it gets no memory */

void faults_fail_at(long n)
{
    atomic_store(&left, n);
}

/* Whether the allocation has failed that was to; none will from now on. */
int faults_stop(void)
{
    return atomic_exchange(&left, 0) <= 0;
}

long faults_spared(void)
{
    return atomic_load(&spared);
}

static int fails(const void *caller)
{
    Dl_info info;
    if (atomic_load(&left) <= 0)
        return 0;
    if (dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "libgomp")) {
        atomic_fetch_add(&spared, 1);
        return 0;
    }
    if (atomic_fetch_sub(&left, 1) != 1)
        return 0;
    atomic_store(&left, -1);
    errno = ENOMEM;
    return 1;
}

#define CALLER __builtin_return_address(0)

void *malloc(size_t size)
{
    return fails(CALLER) ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails(CALLER) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    return fails(CALLER) ? NULL : __libc_realloc(old, size);
}

void *memalign(size_t alignment, size_t size)
{
    return fails(CALLER) ? NULL : __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return fails(CALLER) ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    void *const got = fails(CALLER) ? NULL : __libc_memalign(alignment, size);
    if (got == NULL)
        return ENOMEM;
    *memory = got;
    return 0;
}

/* --- crashes --- */

static void say(const char *text)
{
    if (write(2, text, strlen(text)) < 0)
        _exit(1);
}

/* Whose code it was: the modules up the stack, the innermost first. Nothing here may allocate: the crash may be one of
 * malloc, whose lock is then taken. */
static void tell(int number)
{
    void *frames[48];
    Dl_info info;
    const int count = backtrace(frames, 48);
    for (int i = 1; i < count; i++) /* the first is this handler */
        if (dladdr(frames[i], &info) && info.dli_fname)
            say("in "), say(info.dli_fname), say("\n");
    signal(number, SIG_DFL);
    raise(number);
}

void faults_tell_crashes(void)
{
    void *frame[1];
    backtrace(frame, 1); /* loads what it needs now */
    signal(SIGSEGV, tell);
    signal(SIGABRT, tell);
    signal(SIGBUS, tell);
}
