/* stopwatch CMD [ARG…]: how long a command takes, and how much memory.
 *
 * Starts CMD with posix_spawn, waits for it, and writes one line to descriptor 3:
 *     NANOSECONDS KIB STATUS
 * NANOSECONDS is the wall time from just before the start to the end of the wait, KIB is ru_maxrss as wait4(2)
 * gives it (the largest process of those that were waited for), STATUS is the exit code, or 128 + the signal.
 *
 * It exists because a child started by vfork inherits the peak memory of its parent: measured from an interpreter,
 * every command would seem to need as much as the interpreter. This program needs well under one MiB. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static long long now_ns(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t))
        err(1, "clock_gettime");
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        errx(1, "usage: stopwatch CMD [ARG...] 3>RESULT");
    if (fcntl(3, F_SETFD, FD_CLOEXEC))
        err(1, "descriptor 3");

    pid_t pid;
    int status;
    struct rusage usage;
    long long begin = now_ns();
    int failed = posix_spawn(&pid, argv[1], NULL, NULL, argv + 1, environ);
    if (failed)
        errx(1, "posix_spawn %s: %s", argv[1], strerror(failed));
    while (wait4(pid, &status, 0, &usage) < 0)
        if (errno != EINTR)
            err(1, "wait4");
    long long took = now_ns() - begin;

    int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (dprintf(3, "%lld %ld %d\n", took, usage.ru_maxrss, code) < 0)
        err(1, "write to descriptor 3");
    return 0;
}
