/* floor: what the kernel and the setuid helpers take by themselves, to compare runtimes against.
 *
 * A fixed sequence of the system calls that a rootless container needs when its config is what `runc spec` writes.
 * There is no config to parse, no state to lock, no check of what it is given: this is a ruler, not a runtime.
 *
 *   floor run ROOTFS CMD…         cold: make the outer user namespace O, the container's C in it, wait for CMD
 *   floor warm PID ROOTFS CMD…    the same, but O is taken from the container that PID runs in
 *   floor terminal ROOTFS CMD…    as run, on a terminal of the container's own, shown on the caller's
 *   floor hold DIR ROOTFS CMD…    as run, and DIR/pid is written once CMD runs; ends with its caller
 *   floor create DIR ROOTFS CMD…  cold, up to the point where CMD could be executed
 *   floor start DIR               execute it
 *   floor delete DIR              forget it
 *   floor exec PID CMD…           CMD inside the container of PID
 *   floor state DIR               print whether the container lives
 *
 * Build: cc -O2 -static -o floor floor.c floor_root.c floor_terminal.c */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/nsfs.h>
#include <linux/sched.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "floor_root.h"

extern char **environ;

#define MAX_EXTENTS 340 /* user_namespaces(7): the most lines a map may have */
#define NEW_NAMESPACES \
    (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP)

/* ---- small things -------------------------------------------------------------------------------------------- */

static char *format(const char *pattern, ...)
{
    char *text;
    va_list args;
    va_start(args, pattern);
    if (vasprintf(&text, pattern, args) < 0)
        err(1, "out of memory");
    va_end(args);
    return text;
}

static void write_file(const char *path, int flags, const char *text)
{
    int fd = open(path, flags | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0)
        err(1, "open %s", path);
    if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        err(1, "write %s", path);
    if (close(fd))
        err(1, "close %s", path);
}

static pid_t read_pid(const char *dir)
{
    char *path = format("%s/pid", dir);
    FILE *file = fopen(path, "re");
    int pid;
    if (!file)
        err(1, "open %s", path);
    if (fscanf(file, "%d", &pid) != 1)
        errx(1, "%s: no process id", path);
    fclose(file);
    return pid;
}

static int wait_for(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            err(1, "waitpid %d", pid);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void make_pipe(int ends[2])
{
    if (pipe2(ends, O_CLOEXEC))
        err(1, "pipe2");
}

/* ---- id maps ------------------------------------------------------------------------------------------------- */

struct ids {
    unsigned own; /* the caller's own id, 0 in the container */
    int count;
    struct { unsigned long start, length; } range[MAX_EXTENTS - 1];
};

/* The caller's lines of /etc/subuid or /etc/subgid, by name or by number (subuid(5)). */
static struct ids read_ids(const char *path, const char *user, unsigned own)
{
    struct ids ids = {.own = own};
    char line[512], name[256];
    char *number = format("%u", getuid());
    FILE *file = fopen(path, "re");
    if (!file && errno != ENOENT)
        err(1, "open %s", path);
    while (file && ids.count < MAX_EXTENTS - 1 && fgets(line, sizeof line, file)) {
        unsigned long start, length;
        if (sscanf(line, "%255[^:]:%lu:%lu", name, &start, &length) != 3)
            continue;
        if (strcmp(name, user) && strcmp(name, number))
            continue;
        ids.range[ids.count].start = start;
        ids.range[ids.count++].length = length;
    }
    if (file)
        fclose(file);
    return ids;
}

/* Not getpwuid: in a static program that loads libraries of the system. */
static char *caller_name(void)
{
    FILE *file = fopen("/etc/passwd", "re");
    struct passwd *entry;
    if (!file)
        err(1, "open /etc/passwd");
    while ((entry = fgetpwent(file)) && entry->pw_uid != getuid())
        ;
    char *name = entry ? format("%s", entry->pw_name) : format("%u", getuid());
    fclose(file);
    return name;
}

/* The map of C: 0 is the caller, 1… are the subordinate ids in order. */
static char *container_map(const struct ids *ids)
{
    char *text = format("0 %u 1\n", ids->own);
    unsigned long inside = 1;
    for (int i = 0; i < ids->count; i++) {
        char *longer = format("%s%lu %lu %lu\n", text, inside, ids->range[i].start, ids->range[i].length);
        free(text);
        text = longer;
        inside += ids->range[i].length;
    }
    return text;
}

/* Starts newuidmap or newgidmap with the identity map of the caller's ids. */
static pid_t start_helper(const char *program, pid_t target, const struct ids *ids)
{
    char **argv = calloc(3 * (size_t)ids->count + 6, sizeof *argv);
    if (!argv)
        err(1, "out of memory");
    int n = 0;
    argv[n++] = (char *)program;
    argv[n++] = format("%d", target);
    argv[n++] = format("%u", ids->own);
    argv[n++] = format("%u", ids->own);
    argv[n++] = "1";
    for (int i = 0; i < ids->count; i++) {
        argv[n++] = format("%lu", ids->range[i].start);
        argv[n++] = format("%lu", ids->range[i].start);
        argv[n++] = format("%lu", ids->range[i].length);
    }
    pid_t pid;
    int failed = posix_spawn(&pid, program, NULL, NULL, argv, environ);
    if (failed)
        errx(1, "posix_spawn %s: %s", program, strerror(failed));
    return pid;
}

/* ---- O, the outer user namespace ----------------------------------------------------------------------------- */

/* Outside O, the child waits for O and maps it; both helpers run at the same time. */
static pid_t fork_mapper(int ready, const struct ids *uids, const struct ids *gids)
{
    pid_t target = getpid(), mapper = fork();
    if (mapper < 0)
        err(1, "fork");
    if (mapper)
        return mapper;
    char byte;
    if (read(ready, &byte, 1) != 1)
        _exit(1); /* the parent could not make O, and said so */
    pid_t u = start_helper("/usr/bin/newuidmap", target, uids);
    pid_t g = start_helper("/usr/bin/newgidmap", target, gids);
    int failed_u = wait_for(u), failed_g = wait_for(g);
    _exit(failed_u || failed_g);
}

static void unshare_user(void)
{
    if (unshare(CLONE_NEWUSER))
        err(1, "unshare(CLONE_NEWUSER)");
}

/* Without subordinate ids the caller may map its own id alone, and must give up setgroups. */
static void make_single_outer(const struct ids *uids, const struct ids *gids)
{
    unshare_user();
    write_file("/proc/self/setgroups", 0, "deny");
    write_file("/proc/self/uid_map", 0, format("%u %u 1\n", uids->own, uids->own));
    write_file("/proc/self/gid_map", 0, format("%u %u 1\n", gids->own, gids->own));
}

static void make_outer(const struct ids *uids, const struct ids *gids)
{
    if (!uids->count || !gids->count) {
        make_single_outer(uids, gids);
        return;
    }
    int ready[2];
    make_pipe(ready);
    pid_t mapper = fork_mapper(ready[0], uids, gids);
    close(ready[0]);
    unshare_user();
    if (write(ready[1], "", 1) != 1)
        err(1, "write to the mapper");
    close(ready[1]);
    if (wait_for(mapper))
        errx(1, "newuidmap or newgidmap failed");
}

static void join_outer(const char *pid)
{
    char *path = format("/proc/%s/ns/user", pid);
    int inner = open(path, O_RDONLY | O_CLOEXEC);
    if (inner < 0)
        err(1, "open %s", path);
    int outer = ioctl(inner, NS_GET_PARENT);
    if (outer < 0)
        err(1, "ioctl(%s, NS_GET_PARENT)", path);
    if (setns(outer, CLONE_NEWUSER))
        err(1, "setns(parent of %s)", path);
    close(inner);
    close(outer);
}

/* ---- the container ------------------------------------------------------------------------------------------- */

struct job {
    const char *rootfs;
    char **argv;
    const char *dir; /* where to write the process id, or NULL */
    int fifo;        /* create: opened with O_PATH, C waits on it; otherwise -1 */
    int go[2];       /* parent to C: the maps are written */
    int report[2];   /* C to parent: a byte when created, the end when CMD runs or C failed */
    int single;      /* no subordinate ids: setgroups is denied */
    int terminal;    /* CMD gets a terminal, over the socket `go` */
};

static void become_root(int single)
{
    if (!single && setgroups(0, NULL))
        err(1, "setgroups");
    if (setresgid(0, 0, 0))
        err(1, "setresgid(0)");
    if (setresuid(0, 0, 0))
        err(1, "setresuid(0)");
}

/* Reports that all is ready, then sleeps until `floor start` opens the other end. The descriptor closes at execve. */
static void wait_for_start(const struct job *job)
{
    char path[32];
    if (write(job->report[1], "", 1) != 1)
        err(1, "report");
    snprintf(path, sizeof path, "/proc/self/fd/%d", job->fifo);
    if (open(path, O_WRONLY | O_CLOEXEC) < 0)
        err(1, "open the fifo");
}

static void run_init(const struct job *job)
{
    char byte;
    close(job->go[1]);
    if (read(job->go[0], &byte, 1) != 1)
        _exit(1); /* the parent failed, and said so */
    become_root(job->single);
    if (job->fifo < 0 && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
        err(1, "prctl(PR_SET_PDEATHSIG)");
    if (sethostname("floor", 5))
        err(1, "sethostname");
    enter_root(job->rootfs, job->single);
    if (job->fifo >= 0)
        wait_for_start(job);
    if (job->terminal)
        take_terminal(job->go[0]);
    drop_privileges();
    execv(job->argv[0], job->argv);
    err(1, "execve %s", job->argv[0]);
}

static pid_t clone_init(const struct job *job)
{
    struct clone_args args = {
        .flags = NEW_NAMESPACES,
        .exit_signal = SIGCHLD,
    };
    long pid = syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0)
        err(1, "clone3");
    if (pid == 0)
        run_init(job);
    return (pid_t)pid;
}

/* From inside O: C, its maps, and either its exit code or (create) 0 once it waits for the start. */
static int run_container(struct job *job, const struct ids *uids, const struct ids *gids)
{
    char byte;
    /* Entering O made this process non-dumpable: the /proc files of its child would belong to root. */
    if (prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))
        err(1, "prctl(PR_SET_DUMPABLE)");
    if (!job->terminal)
        make_pipe(job->go);
    else if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, job->go))
        err(1, "socketpair");
    make_pipe(job->report);
    pid_t pid = clone_init(job);
    close(job->go[0]);
    close(job->report[1]);
    write_file(format("/proc/%d/uid_map", pid), 0, container_map(uids));
    write_file(format("/proc/%d/gid_map", pid), 0, container_map(gids));
    if (write(job->go[1], "", 1) != 1)
        err(1, "write to init");
    ssize_t got = read(job->report[0], &byte, 1);
    if (job->dir)
        write_file(format("%s/pid", job->dir), O_CREAT | O_TRUNC, format("%d\n", pid));
    if (job->terminal)
        show_terminal(job->go[1]);
    return got == 1 ? 0 : wait_for(pid);
}

static int open_fifo(const char *dir)
{
    char *path = format("%s/start", dir);
    if (mkdir(dir, 0700))
        err(1, "mkdir %s", dir);
    if (mkfifo(path, 0600))
        err(1, "mkfifo %s", path);
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        err(1, "open %s", path);
    return fd;
}

/* argv: ROOTFS CMD…; dir and outer may be NULL. */
static int command_run(char **argv, const char *outer, const char *dir, int fifo, int terminal)
{
    char *user = caller_name();
    struct ids uids = read_ids("/etc/subuid", user, getuid());
    struct ids gids = read_ids("/etc/subgid", user, getgid());
    struct job job = {.rootfs = argv[0], .argv = argv + 1, .dir = dir, .fifo = fifo, .terminal = terminal};
    if (!uids.count || !gids.count) {
        uids.count = gids.count = 0;
        job.single = 1;
    }
    if (outer)
        join_outer(outer);
    else
        make_outer(&uids, &gids);
    return run_container(&job, &uids, &gids);
}

/* user_namespaces(7): "deny" where the map was written without newgidmap. */
static int setgroups_denied(void)
{
    char text[8] = "";
    int fd = open("/proc/self/setgroups", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        err(1, "open /proc/self/setgroups");
    if (read(fd, text, sizeof text - 1) < 0)
        err(1, "read /proc/self/setgroups");
    close(fd);
    return !strncmp(text, "deny", 4);
}

static int command_exec(const char *pid, char **argv)
{
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)atoi(pid), 0);
    if (fd < 0)
        err(1, "pidfd_open %s", pid);
    if (setns(fd, NEW_NAMESPACES))
        err(1, "setns(pidfd of %s)", pid);
    close(fd);
    pid_t child = fork(); /* a pid namespace holds the children only */
    if (child < 0)
        err(1, "fork");
    if (child)
        return wait_for(child);
    become_root(setgroups_denied());
    if (chdir("/"))
        err(1, "chdir /");
    drop_privileges();
    execv(argv[0], argv);
    err(1, "execve %s", argv[0]);
}

static int command_start(const char *dir)
{
    char *path = format("%s/start", dir), byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        err(1, "open %s", path);
    if (read(fd, &byte, 1))
        errx(1, "%s: init did not reach its execve", path);
    return 0;
}

static int command_state(const char *dir)
{
    pid_t pid = read_pid(dir);
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0 && errno != ESRCH)
        err(1, "pidfd_open %d", pid);
    struct pollfd end = {.fd = fd, .events = POLLIN};
    int stopped = fd < 0 || poll(&end, 1, 0) != 0;
    printf("{\"status\": \"%s\", \"pid\": %d}\n", stopped ? "stopped" : "running", pid);
    return 0;
}

static int command_delete(const char *dir)
{
    char *pid = format("%s/pid", dir), *start = format("%s/start", dir);
    if (unlink(pid))
        err(1, "unlink %s", pid);
    if (unlink(start))
        err(1, "unlink %s", start);
    if (rmdir(dir))
        err(1, "rmdir %s", dir);
    return 0;
}

int main(int argc, char **argv)
{
    const char *verb = argc > 2 ? argv[1] : "";
    if (!strcmp(verb, "run") && argc > 3)
        return command_run(argv + 2, NULL, NULL, -1, 0);
    if (!strcmp(verb, "terminal") && argc > 3)
        return command_run(argv + 2, NULL, NULL, -1, 1);
    if (!strcmp(verb, "warm") && argc > 4)
        return command_run(argv + 3, argv[2], NULL, -1, 0);
    if (!strcmp(verb, "hold") && argc > 4)
        return command_run(argv + 3, NULL, argv[2], -1, 0);
    if (!strcmp(verb, "create") && argc > 4)
        return command_run(argv + 3, NULL, argv[2], open_fifo(argv[2]), 0);
    if (!strcmp(verb, "exec") && argc > 3)
        return command_exec(argv[2], argv + 3);
    if (!strcmp(verb, "start"))
        return command_start(argv[2]);
    if (!strcmp(verb, "state"))
        return command_state(argv[2]);
    if (!strcmp(verb, "delete"))
        return command_delete(argv[2]);
    errx(1, "usage: floor run ROOTFS CMD... | warm PID ROOTFS CMD... | terminal ROOTFS CMD... | "
            "hold DIR ROOTFS CMD... | "
            "create DIR ROOTFS CMD... | start DIR | delete DIR | exec PID CMD... | state DIR");
}
