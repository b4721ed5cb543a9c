/* test_cbn.c: the C interface on exactly sized buffers: runs the parts of the test that are named, or those that take
 * seconds. The first argument may be --small, for machines that are emulated.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include "checks.h"

int passed, small;
uint64_t bits;

static const struct part {
    const char *name;
    void (*run)(void);
    int unasked; /* also if no part is named */
} parts[] = {
    {"bits", check_bits, 1},   {"images", check_images, 1},         {"edges", check_edges, 1},
    {"faults", check_faults, 1}, {"state", check_state, 1},         {"concurrent", check_concurrent, 1},
#ifndef _WIN32 /* which has neither fork nor mmap */
    {"fork", check_fork, 1},   {"huge", check_huge, 0},             {"huge_outputs", check_huge_outputs, 0},
#endif
};

static void run(const struct part *part)
{
    const int before = passed;
    bits = 0;
    part->run();
    printf("%-12s %6d passed, bits %016llx\n", part->name, passed - before, (unsigned long long)bits);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    printf("isa %s\n", cbn_isa());
    small = argc > 1 && strcmp(argv[1], "--small") == 0;
    for (int i = 0; i < COUNT(parts) && argc == 1 + small; i++)
        if (parts[i].unasked)
            run(&parts[i]);
    for (int arg = 1 + small; arg < argc; arg++) {
        int i = 0;
        while (i < COUNT(parts) && strcmp(parts[i].name, argv[arg]) != 0)
            i++;
        CHECK(i < COUNT(parts));
        run(&parts[i]);
    }
    printf("%d passed, 0 failed\n", passed);
    return 0;
}
