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

#endif
