/* test_fork.c: a child and a grandchild of a process that has had a team have teams of their own.
 *
 * SPDX-License-Identifier: BSD-3-Clause */
#include <sys/wait.h>
#include <unistd.h>

#include "checks.h"

/* The same in this process, and then in `more` generations after it. */
static void run_here(const struct arrays *given, uint64_t expected, int more)
{
    struct arrays a = with_outputs(given, 3);
    for (int o = 0; o < operation_count; o++)
        CHECK(operations[o].run(&a) == CBN_OK);
    CHECK(digest(&a, BIT(DX) | BIT(Y) | BIT(IMAGE)) == expected);
    discard_outputs(&a);
    if (more == 0)
        return;
    fflush(stdout);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        run_here(given, expected, more - 1);
        exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    passed++;
}

void check_fork(void)
{
    static const ptrdiff_t shape[] = {4, 3, 10000};
    struct arrays given = make_arrays(CBN_FLOAT32, shape, 3, 1), a = with_outputs(&given, 1);
    for (int o = 0; o < operation_count; o++)
        CHECK(operations[o].run(&a) == CBN_OK);
    const uint64_t expected = digest(&a, BIT(DX) | BIT(Y) | BIT(IMAGE));
    discard_outputs(&a);
    for (int time = 0; time < 3; time++)
        run_here(&given, expected, 2);
    discard_arrays(&given);
}
