/* stopwatch [-t] CMD [ARG…]: how long a command takes, and how much memory.
 *
 * Starts CMD with posix_spawn, waits for it, and writes one line to descriptor 3:
 *     NANOSECONDS KIB STATUS
 * NANOSECONDS is the wall time from just before the start to the end of the wait, KIB is ru_maxrss as wait4(2)
 * gives it (the largest process of those that were waited for), STATUS is the exit code, or 128 + the signal.
 * With -t, CMD leads a session on a new terminal of 80 x 24, and what it prints there goes to standard output. A CMD
 * that takes over 30 seconds there is killed.
 *
 * It exists because a child started by vfork inherits the peak memory of its parent: measured from an interpreter,
 * every command would seem to need as much as the interpreter. This program needs well under one MiB. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
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

/* The runtime's side of a new terminal is opened by name in the child: a session leader gets it as its own. */
static int open_terminal(posix_spawn_file_actions_t *actions, posix_spawnattr_t *attributes)
{
    static char name[64];
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, name, sizeof name))
        err(1, "new terminal");
    if (ioctl(master, TIOCSWINSZ, &size))
        err(1, "TIOCSWINSZ");
    int failed = posix_spawn_file_actions_addopen(actions, 0, name, O_RDWR, 0)
        || posix_spawn_file_actions_adddup2(actions, 0, 1)
        || posix_spawn_file_actions_adddup2(actions, 0, 2)
        || posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID);
    if (failed)
        errx(1, "posix_spawn: out of memory");
    return master;
}

/* Copies what there is to standard output; 0 when nothing more can come. */
static int drain(int master)
{
    char text[4096];
    ssize_t length;
    while ((length = read(master, text, sizeof text)) > 0)
        if (write(1, text, (size_t)length) != length)
            err(1, "write");
    return length < 0 && errno == EAGAIN;
}

/* Drains the terminal until the process ends. */
static void attend(int master, pid_t pid)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        err(1, "pidfd_open");
    struct pollfd sources[] = {{.fd = pidfd, .events = POLLIN}, {.fd = master, .events = POLLIN}};
    long long end = now_ns() + 30 * 1000000000LL;
    while (!sources[0].revents) {
        long long left = (end - now_ns()) / 1000000;
        if (left <= 0 && kill(pid, SIGKILL))
            err(1, "kill");
        if (poll(sources, 2, left > 0 ? (int)left : 1000) < 0 && errno != EINTR)
            err(1, "poll");
        if (sources[1].revents && !drain(master))
            sources[1].fd = -1;
    }
    close(pidfd);
}

int main(int argc, char **argv)
{
    int terminal = argc > 1 && !strcmp(argv[1], "-t");
    argv += 1 + terminal;
    if (!*argv)
        errx(1, "usage: stopwatch [-t] CMD [ARG...] 3>RESULT");
    if (fcntl(3, F_SETFD, FD_CLOEXEC))
        err(1, "descriptor 3");
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    if (posix_spawn_file_actions_init(&actions) || posix_spawnattr_init(&attributes))
        errx(1, "posix_spawn: out of memory");
    int master = terminal ? open_terminal(&actions, &attributes) : -1;

    pid_t pid;
    int status;
    struct rusage usage;
    long long begin = now_ns();
    int failed = posix_spawn(&pid, argv[0], &actions, &attributes, argv, environ);
    if (failed)
        errx(1, "posix_spawn %s: %s", argv[0], strerror(failed));
    if (terminal)
        attend(master, pid);
    while (wait4(pid, &status, 0, &usage) < 0)
        if (errno != EINTR)
            err(1, "wait4");
    long long took = now_ns() - begin;
    if (terminal)
        drain(master);

    int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    if (dprintf(3, "%lld %ld %d\n", took, usage.ru_maxrss, code) < 0)
        err(1, "write to descriptor 3");
    return 0;
}
