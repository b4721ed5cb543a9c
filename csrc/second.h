/* second.h: what double_backward.c and its kernels know of each other.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#ifndef CBN_SECOND_H
#define CBN_SECOND_H

#include <stddef.h>

/* The arrays, from their first values on, and numbers of all channels. With x_hat = (x - mean) * inv_std, what the
 * statistics leave of ddx and dy is rest(v) = (v - center) - x_hat * slope, or v itself if not `training`; and then
 *     ddy = scale * rest(ddx) + ddweight * x_hat + ddbias
 *     dx = of_ddx * rest(ddx) + of_dy * rest(dy) + of_x * x_hat
 * or dx = of_dy * dy if not `training`, when the arrays of the last two lines stay unset. */
struct cbn_second {
    const void *ddx, *dy, *x;
    void *ddy, *dx;
    int training;
    double *mean, *inv_std, *scale, *ddweight, *ddbias, *of_dy;
    double *ddx_center, *ddx_slope, *dy_center, *dy_slope;
    double *of_ddx, *of_x;
};

/* The same numbers of one channel. */
struct cbn_numbers {
    double mean, inv_std, scale, ddweight, ddbias, of_dy, ddx_center, ddx_slope, dy_center, dy_slope, of_ddx, of_x;
};

static inline struct cbn_numbers cbn_numbers_of(const struct cbn_second *of, ptrdiff_t c)
{
    return (struct cbn_numbers){of->mean[c],       of->inv_std[c],   of->scale[c],      of->ddweight[c],
                                of->ddbias[c],     of->of_dy[c],     of->ddx_center[c], of->ddx_slope[c],
                                of->dy_center[c],  of->dy_slope[c],  of->of_ddx[c],     of->of_x[c]};
}

/* One value's x_hat, its ddx less their mean, and the rests of ddx and dy. */
struct cbn_rests {
    double x_hat, centred_ddx, ddx, dy;
};

#define CBN_ALWAYS static inline __attribute__((always_inline))

CBN_ALWAYS struct cbn_rests cbn_rests_of(double x, double ddx, double dy, const struct cbn_numbers *n, int training)
{
    struct cbn_rests r = {(x - n->mean) * n->inv_std, ddx, ddx, dy};
    if (training) {
        r.centred_ddx = ddx - n->ddx_center;
        r.ddx = r.centred_ddx - r.x_hat * n->ddx_slope;
        r.dy = (dy - n->dy_center) - r.x_hat * n->dy_slope;
    }
    return r;
}

/* Its part in the sum of dweight. */
CBN_ALWAYS double cbn_product_of(double x, double ddx, double dy, const struct cbn_numbers *n, int training)
{
    const struct cbn_rests r = cbn_rests_of(x, ddx, dy, n, training);
    return r.centred_ddx * r.dy;
}

/* ddy, and dx, which takes the place of x. */
CBN_ALWAYS double cbn_second_of(double *x, double ddx, double dy, const struct cbn_numbers *n, int training)
{
    const struct cbn_rests r = cbn_rests_of(*x, ddx, dy, n, training);
    const double of_dy = n->of_dy * r.dy;
    *x = training ? (n->of_ddx * r.ddx + of_dy) + n->of_x * r.x_hat : of_dy;
    return (n->scale * r.ddx + n->ddweight * r.x_hat) + n->ddbias;
}

#endif
