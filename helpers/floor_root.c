/* The inside of floor's container: its mounts, its root, its privileges. See floor.c. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "floor_root.h"

/* <sys/mount.h> and <linux/mount.h> cannot be included together with every libc: declare the little that is missing. */
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif

#define NO_EXEC (MS_NOSUID | MS_NODEV | MS_NOEXEC)

static void write_empty(const char *path)
{
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0)
        err(1, "create %s", path);
    if (close(fd))
        err(1, "close %s", path);
}

static void mount_or_die(const char *source, const char *target, const char *type, unsigned long flags,
                         const char *data)
{
    if (mount(source, target, type, flags, data))
        err(1, "mount %s on %s", source ? source : "(flags)", target);
}

static void make_readonly(const char *path, unsigned flags)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
    if (syscall(SYS_mount_setattr, AT_FDCWD, path, flags, &attr, sizeof attr))
        err(1, "mount_setattr(%s, MOUNT_ATTR_RDONLY)", path);
}

static void make_dir(const char *path)
{
    if (mkdir(path, 0755))
        err(1, "mkdir %s", path);
}

static void bind_devices(void)
{
    static const char *const names[] = {"null", "zero", "full", "random", "urandom", "tty"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char source[32], target[32];
        snprintf(source, sizeof source, "/dev/%s", names[i]);
        snprintf(target, sizeof target, "dev/%s", names[i]);
        write_empty(target);
        mount_or_die(source, target, NULL, MS_BIND, NULL);
    }
}

static void link_devices(void)
{
    static const char *const links[][2] = {
        {"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
        {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"},
    };
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        if (symlink(links[i][0], links[i][1]))
            err(1, "symlink %s", links[i][1]);
}

static void mount_all(const char *rootfs, const char *devpts)
{
    mount_or_die(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL);
    mount_or_die(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL);
    if (chdir(rootfs))
        err(1, "chdir %s", rootfs);
    mount_or_die("proc", "proc", "proc", NO_EXEC, NULL);
    mount_or_die("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
    make_dir("dev/pts");
    make_dir("dev/shm");
    make_dir("dev/mqueue");
    mount_or_die("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, devpts);
    mount_or_die("shm", "dev/shm", "tmpfs", NO_EXEC, "mode=1777,size=65536k");
    mount_or_die("mqueue", "dev/mqueue", "mqueue", NO_EXEC, NULL);
    mount_or_die("sysfs", "sys", "sysfs", NO_EXEC | MS_RDONLY, NULL);
    mount_or_die("cgroup2", "sys/fs/cgroup", "cgroup2", NO_EXEC | MS_RELATIME | MS_RDONLY, NULL);
    bind_devices();
    link_devices();
}

static void pivot(void)
{
    if (syscall(SYS_pivot_root, ".", "."))
        err(1, "pivot_root");
    if (umount2(".", MNT_DETACH))
        err(1, "umount the old root");
    if (chdir("/"))
        err(1, "chdir /");
}

static void hide_paths(void)
{
    static const char *const masked[] = {
        "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
        "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
    };
    static const char *const readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    struct stat info;
    for (size_t i = 0; i < sizeof readonly / sizeof *readonly; i++) {
        if (mount(readonly[i], readonly[i], NULL, MS_BIND | MS_REC, NULL)) {
            if (errno != ENOENT)
                err(1, "bind %s", readonly[i]);
            continue;
        }
        make_readonly(readonly[i], AT_RECURSIVE);
    }
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
        if (stat(masked[i], &info)) {
            if (errno != ENOENT)
                err(1, "stat %s", masked[i]);
        } else if (S_ISDIR(info.st_mode)) {
            mount_or_die("tmpfs", masked[i], "tmpfs", MS_RDONLY, NULL);
        } else {
            mount_or_die("/dev/null", masked[i], NULL, MS_BIND, NULL);
        }
    }
}

void enter_root(const char *rootfs, int single)
{
    /* gid 5 (tty) exists only where the subordinate ids are mapped. */
    mount_all(rootfs, single ? "newinstance,ptmxmode=0666,mode=0620" : "newinstance,ptmxmode=0666,mode=0620,gid=5");
    pivot();
    hide_paths();
    make_readonly("/", 0);
}

/* The three capabilities, the limit and no_new_privs that `runc spec` asks for. */
void drop_privileges(void)
{
    const unsigned keep = 1U << CAP_AUDIT_WRITE | 1U << CAP_KILL | 1U << CAP_NET_BIND_SERVICE;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{.effective = keep, .permitted = keep}};
    struct rlimit files = {1024, 1024};
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        if ((cap >= 32 || !(keep & 1U << cap)) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
            err(1, "prctl(PR_CAPBSET_DROP, %d)", cap);
    if (setrlimit(RLIMIT_NOFILE, &files))
        err(1, "setrlimit(RLIMIT_NOFILE)");
    if (syscall(SYS_capset, &header, data))
        err(1, "capset");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        err(1, "prctl(PR_SET_NO_NEW_PRIVS)");
}
