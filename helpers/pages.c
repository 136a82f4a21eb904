/* pages MIB: memory whose content is known, for a checkpoint.
 *
 * Fills MIB MiB with numbers, none of them zero and no page like another, and tells by its name (/proc/PID/comm) how it is: "filled",
 * and after each SIGUSR1 "right" or "wrong", as it finds them then. It waits for signals in between, and ends by SIGTERM.
 *
 * Build: cc -O2 -static -o pages pages.c */
#define _GNU_SOURCE
#include <err.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>

/* A step of xorshift: from one that is not zero it never comes to zero, and nothing can compress what it gives. */
static uint64_t next(uint64_t word)
{
    word ^= word << 13;
    word ^= word >> 7;
    return word ^ word << 17;
}

static void be(const char *name)
{
    if (prctl(PR_SET_NAME, name))
        err(1, "PR_SET_NAME");
}

int main(int argc, char **argv)
{
    long mib = argc == 2 ? atol(argv[1]) : 0;
    if (mib < 1 || mib > 1 << 20)
        errx(1, "usage: pages MIB");
    size_t count = ((size_t)mib << 20) / sizeof(uint64_t);
    uint64_t *words = mmap(NULL, count * sizeof *words, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED)
        err(1, "mmap");
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &signals, NULL))
        err(1, "sigprocmask");
    uint64_t word = 88172645463325252ULL;
    for (size_t at = 0; at < count; at++)
        words[at] = word = next(word);
    be("filled");

    int number;
    while (!sigwait(&signals, &number) && number == SIGUSR1) {
        size_t at = 0;
        be("looking");
        for (word = 88172645463325252ULL; at < count && words[at] == next(word); at++)
            word = words[at];
        be(at == count ? "right" : "wrong");
    }
    return 0;
}
