/* planes.h: pixels whose channels lie side by side are taken apart, to one plane per channel; a part of kernels.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Plain loops, which compilers turn into shuffles of vectors for each instruction set, if they are told to. */
#define CBN_SHUFFLED _Pragma("omp simd")

static void cbn_split_2(uint8_t *restrict a, uint8_t *restrict b, const uint8_t *restrict from, ptrdiff_t pixels)
{
    CBN_SHUFFLED for (ptrdiff_t i = 0; i < pixels; i++) {
        a[i] = from[2 * i];
        b[i] = from[2 * i + 1];
    }
}

static void cbn_split_3(uint8_t *restrict a, uint8_t *restrict b, uint8_t *restrict c, const uint8_t *restrict from,
                        ptrdiff_t pixels)
{
    CBN_SHUFFLED for (ptrdiff_t i = 0; i < pixels; i++) {
        a[i] = from[3 * i];
        b[i] = from[3 * i + 1];
        c[i] = from[3 * i + 2];
    }
}

static void cbn_split_4(uint8_t *restrict a, uint8_t *restrict b, uint8_t *restrict c, uint8_t *restrict d,
                        const uint8_t *restrict from, ptrdiff_t pixels)
{
    CBN_SHUFFLED for (ptrdiff_t i = 0; i < pixels; i++) {
        a[i] = from[4 * i];
        b[i] = from[4 * i + 1];
        c[i] = from[4 * i + 2];
        d[i] = from[4 * i + 3];
    }
}

/* to[c * pixels + i] = from[i * stride + c], with `stride` channels in memory, of which `channels` are wanted */
static void cbn_split(uint8_t *restrict to, const uint8_t *restrict from, ptrdiff_t stride, ptrdiff_t channels,
                      ptrdiff_t pixels)
{
    if (stride == 2 && channels == 2)
        cbn_split_2(to, to + pixels, from, pixels);
    else if (stride == 3 && channels == 3)
        cbn_split_3(to, to + pixels, to + 2 * pixels, from, pixels);
    else if (stride == 4 && channels == 4)
        cbn_split_4(to, to + pixels, to + 2 * pixels, to + 3 * pixels, from, pixels);
    else
        for (ptrdiff_t c = 0; c < channels; c++)
            for (ptrdiff_t i = 0; i < pixels; i++)
                to[c * pixels + i] = from[i * stride + c];
}
