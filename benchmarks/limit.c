/* limit: streaming copy and streaming add, which no normalization of arrays in memory can beat.
 *
 * Sizes are in bytes and a multiple of 4; arrays start on a 16-byte boundary. The add is one of 32-bit integers: it
 * moves the same bytes as one of floating-point numbers of any width, and costs less wherever that could matter. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <omp.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define HAVE_STREAM 1
#else
#define HAVE_STREAM 0
#endif

#define LINE 64 /* bytes: threads never share a cache line */

typedef void kernel_fn(char *out, const char *a, const char *b, size_t bytes);

/* Gives each of the threads one contiguous part, which starts on a cache line of `out` but for the first. */
static void run(kernel_fn *kernel, char *out, const char *a, const char *b, size_t bytes, int threads)
{
    const size_t head = -(uintptr_t)out % LINE, lines = (head + bytes + LINE - 1) / LINE;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const size_t team = (size_t)omp_get_num_threads(), me = (size_t)omp_get_thread_num();
        size_t begin = me == 0 ? 0 : head + lines * me / team * LINE;
        size_t end = head + lines * (me + 1) / team * LINE;
        begin = begin < bytes ? begin : bytes;
        end = end < bytes ? end : bytes;
        kernel(out + begin, a + begin, b + begin, end - begin);
    }
}

static void copy_memcpy_part(char *out, const char *a, const char *b, size_t bytes)
{
    (void)b;
    memcpy(out, a, bytes);
}

static void copy_loop_part(char *out, const char *a, const char *b, size_t bytes)
{
    (void)b;
    uint32_t *restrict y = (uint32_t *)out;
    const uint32_t *restrict x = (const uint32_t *)a;
    for (size_t i = 0; i < bytes / 4; i++)
        y[i] = x[i];
}

static void add_loop_part(char *out, const char *a, const char *b, size_t bytes)
{
    uint32_t *restrict y = (uint32_t *)out;
    const uint32_t *restrict x1 = (const uint32_t *)a, *restrict x2 = (const uint32_t *)b;
    for (size_t i = 0; i < bytes / 4; i++)
        y[i] = x1[i] + x2[i];
}

#if HAVE_STREAM

/* Whole cache lines past the caches, and what is before and after them as usual. Four stores of 16 bytes fill a line,
 * which the CPU then writes at once: that is as fast as wider stores, and every x86-64 has them. */
#define STREAM(loop, store)                                                                               \
    {                                                                                                     \
        size_t head = -(uintptr_t)out % LINE;                                                             \
        head = head < bytes ? head : bytes;                                                               \
        const size_t whole = (bytes - head) / LINE * LINE;                                                \
        loop(out, a, b, head);                                                                            \
        for (size_t i = head; i < head + whole; i += LINE)                                                \
            for (size_t j = i; j < i + LINE; j += 16)                                                     \
                _mm_stream_si128((__m128i *)(out + j), store);                                            \
        _mm_sfence();                                                                                     \
        loop(out + head + whole, a + head + whole, b + head + whole, bytes - head - whole);               \
    }
#define LOAD(p) _mm_loadu_si128((const __m128i *)((p) + j))

static void copy_stream_part(char *out, const char *a, const char *b, size_t bytes)
STREAM(copy_loop_part, LOAD(a))

static void add_stream_part(char *out, const char *a, const char *b, size_t bytes)
STREAM(add_loop_part, _mm_add_epi32(LOAD(a), LOAD(b)))

#endif

int have_stream(void) { return HAVE_STREAM; }

#define PUBLIC(name)                                                                                      \
    void name(char *out, const char *a, const char *b, size_t bytes, int threads)                         \
    {                                                                                                     \
        run(name##_part, out, a, b, bytes, threads);                                                      \
    }

PUBLIC(copy_memcpy)
PUBLIC(copy_loop)
PUBLIC(add_loop)
#if HAVE_STREAM
PUBLIC(copy_stream)
PUBLIC(add_stream)
#endif
