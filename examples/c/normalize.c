/* normalize.c: trains one batch-norm layer for a step, and normalizes with its running statistics. */
#include <stdio.h>

#include "cbn.h"

int main(void)
{
    enum { SAMPLES = 4, CHANNELS = 2, LENGTH = 3 }; /* an (N, C, L) array in C order */
    float x[SAMPLES * CHANNELS * LENGTH], y[SAMPLES * CHANNELS * LENGTH];
    float running_mean[CHANNELS] = {0, 0}, running_var[CHANNELS] = {1, 1};
    double mean[CHANNELS], m2[CHANNELS], inv_std[CHANNELS];
    for (int i = 0; i < SAMPLES * CHANNELS * LENGTH; i++)
        x[i] = (float)(i * i % 7);

    /* weight and bias are NULL: 1 and 0; options are NULL: none */
    if (cbn_forward(y, mean, m2, inv_std, x, NULL, NULL, 1e-5, NULL, CBN_FLOAT32, CBN_FLOAT32, SAMPLES, CHANNELS,
                    LENGTH, 1))
        return 1; /* no memory */
    cbn_update_running(running_mean, mean, 1, 0.1, CBN_FLOAT32, CHANNELS);
    cbn_update_running(running_var, m2, SAMPLES * LENGTH - 1, 0.1, CBN_FLOAT32, CHANNELS); /* unbiased */
    if (cbn_inference(y, x, NULL, NULL, running_mean, running_var, 1e-5, NULL, CBN_FLOAT32, CBN_FLOAT32, CBN_FLOAT32,
                      SAMPLES, CHANNELS, LENGTH, 1))
        return 1;
    for (int c = 0; c < CHANNELS; c++)
        printf("channel %d: mean %.4f, variance %.4f, running mean %.4f, running variance %.4f\n", c, mean[c],
               m2[c] / (SAMPLES * LENGTH), running_mean[c], running_var[c]);
    printf("first output %.4f\n", y[0]);
    return 0;
}
