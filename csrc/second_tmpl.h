/* second_tmpl.h: the formulas of the gradients of the gradients, of one value or of a vector of them; a part of kernels.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Included with V, double or cbn_vec, and OF_V(name), which tells their names apart. */

/* The numbers of `struct cbn_second` that belong to each value. */
struct OF_V(numbers) {
    V mean, inv_std, scale, ddweight, ddbias, of_dy, ddx_center, ddx_slope, dy_center, dy_slope, of_ddx, of_x;
};

/* x_hat, ddx less their mean, and the rests of ddx and dy. */
struct OF_V(rests) {
    V x_hat, centred_ddx, ddx, dy;
};

static CBN_INLINE struct OF_V(rests) OF_V(rests_of)(V x, V ddx, V dy, const struct OF_V(numbers) *n, int training)
{
    struct OF_V(rests) r = {(x - n->mean) * n->inv_std, ddx, ddx, dy};
    if (training) {
        r.centred_ddx = ddx - n->ddx_center;
        r.ddx = r.centred_ddx - r.x_hat * n->ddx_slope;
        r.dy = (dy - n->dy_center) - r.x_hat * n->dy_slope;
    }
    return r;
}

/* The part in the sum of dweight. */
static CBN_INLINE V OF_V(product_of)(V x, V ddx, V dy, const struct OF_V(numbers) *n, int training)
{
    const struct OF_V(rests) r = OF_V(rests_of)(x, ddx, dy, n, training);
    return r.centred_ddx * r.dy;
}

/* ddy, and dx, which takes the place of x. */
static CBN_INLINE V OF_V(second_of)(V *x, V ddx, V dy, const struct OF_V(numbers) *n, int training)
{
    const struct OF_V(rests) r = OF_V(rests_of)(*x, ddx, dy, n, training);
    const V of_dy = n->of_dy * r.dy;
    *x = training ? (n->of_ddx * r.ddx + of_dy) + n->of_x * r.x_hat : of_dy;
    return (n->scale * r.ddx + n->ddweight * r.x_hat) + n->ddbias;
}

#undef V
#undef OF_V
