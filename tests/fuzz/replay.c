/* replay.c: runs the fuzzer's inputs again, one file after the other, without libFuzzer.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        static uint8_t data[1 << 16];
        FILE *file = fopen(argv[i], "rb");
        if (!file) {
            perror(argv[i]);
            return 1;
        }
        const size_t size = fread(data, 1, sizeof data, file);
        fclose(file);
        uint8_t *exact = malloc(size ? size : 1);
        if (!exact)
            return 1;
        for (size_t b = 0; b < size; b++)
            exact[b] = data[b];
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("%d inputs, 0 failed\n", argc - 1);
    return argc > 1 ? 0 : 1;
}
