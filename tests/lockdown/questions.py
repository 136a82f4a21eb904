"""What tests/lockdown/holds asks the kernel and the files of the machine."""

import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
import subprocess
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
HELPERS = ["/usr/bin/newuidmap", "/usr/bin/newgidmap"]
HOME = os.environ.get("HOME", "")
USER = os.environ.get("USER", "")
RUNTIME = os.environ.get("XDG_RUNTIME_DIR")
CLONE_NEWUSER = 0x10000000

libc = ctypes.CDLL(None, use_errno=True)


def text(path):
    with open(path) as file:
        return file.read()


def read(path):
    """What is in a file, without white space around it; `None` where it cannot be read."""
    try:
        return text(path).strip()
    except OSError:
        return None


def readable(path):
    return read(path) is not None


def status(key):
    """A value of /proc/self/status."""
    return next(line.split(":", 1)[1].strip() for line in text("/proc/self/status").splitlines() if line.startswith(key + ":"))


def filtered():
    return status("Seccomp") == "2"


def in_child(function):
    """What `function` gives, an errno, in a child that ends with it."""
    child = os.fork()
    if child == 0:
        os._exit(function())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def user_namespaces(many):
    """0, or the errno, of making so many user namespaces, each within the last. The limit gives way a moment late (one-userns)."""
    def make():
        for _ in range(many):
            uid, gid = os.getuid(), os.getgid()
            if libc.unshare(CLONE_NEWUSER) != 0:
                return ctypes.get_errno()
            if many == 1:
                break
            # None can be made by ids that are not mapped.
            for name, value in ("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1"):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(value)
        return 0

    for _ in range(40 if many == 1 else 1):
        error = in_child(make)
        if error != errno.ENOSPC:
            break
    return error


def ranges(kind, owner=None):
    """What /etc/subuid or /etc/subgid gives the user, in lines that can be read."""
    found = []
    for line in text(f"/etc/sub{kind}").splitlines():
        parts = line.split(":")
        mine = [owner] if owner is not None else [USER, str(os.getuid())]
        if len(parts) == 3 and parts[0] in mine and parts[1].isdigit() and parts[2].isdigit():
            found.append((int(parts[1]), int(parts[2])))
    return found


def helpers_map(expected):
    """Whether newuidmap and newgidmap end with this status when they are asked to map the first range."""
    def maps(kind):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            made = libc.unshare(CLONE_NEWUSER) == 0
            # A child that has a namespace waits for the end of the pipe.
            os.write(told[1], b"y" if made else b"n")
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)
        os.read(told[0], 1)
        own = os.getuid() if kind == "uid" else os.getgid()
        start, count = ranges(kind)[0]
        command = [f"/usr/bin/new{kind}map", str(child), "0", str(own), "1", "1", str(start), str(count)]
        done = subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode
        os.close(writer)
        os.waitpid(child, 0)
        return done

    told = os.pipe()
    return [maps("uid"), maps("gid")] == [expected] * 2


def set_id(path):
    mode = os.stat(path)
    return bool(mode.st_mode & stat.S_ISUID) and mode.st_uid == 0


def has_capabilities(path):
    return "security.capability" in os.listxattr(path)


def in_namespace(*command):
    """The exit status of a command as the root of new user, mount and pid namespaces."""
    whole = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", *command]
    return subprocess.run(whole, stderr=subprocess.DEVNULL, check=False).returncode


def read_only(path):
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def calls_of(name):
    """The calls that a filter names: name, number, flags of the first argument or `None`, errno."""
    lines = subprocess.run([f"{HERE}/filter", "--calls", name], capture_output=True, text=True, check=True).stdout.splitlines()
    for line in lines:
        call, number, *flags, error = line.split()
        yield call, int(number), int(flags[0]) if flags else None, int(error)


def try_call(number, first):
    """The errno of a call with arguments that let nothing happen, in a child: it may be fork, or take the child's memory."""
    def attempt():
        ctypes.set_errno(0)
        bad = ctypes.c_void_p(-1)
        got = libc.syscall(ctypes.c_long(number), ctypes.c_long(first), bad, bad, bad, bad, bad)
        return ctypes.get_errno() if got == -1 else 0

    return in_child(attempt)


def filter_holds(name):
    """Whether each call of a filter gives its errno."""
    return filtered() and all(try_call(number, -1 if flags is None else flags) == error
                              for _, number, flags, error in calls_of(name))


def call_gives(call, error, inside=False):
    """Whether a call of the mount filter gives this errno; `inside`: as the root of new user and mount namespaces."""
    number = next(number for name, number, _, _ in calls_of("mount") if name == call)
    if not inside:
        return try_call(number, -1) == error
    return in_namespace("mount", "-t", "tmpfs", "none", "/tmp") != 0


def written(directory, then):
    """0, or the errno, of making a file in `directory` and doing `then` with it."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory) as file:
            if then is not None:
                then(file.name)
    except OSError as error:
        return error.errno
    return 0


def filesystems():
    """The types of all that is mounted at /sys/fs/cgroup and beneath it."""
    types = set()
    for line in text("/proc/self/mountinfo").splitlines():
        before, after = line.split(" - ")
        if before.split()[4].startswith("/sys/fs/cgroup"):
            types.add(after.split()[0])
    return types


def cgroup2():
    return filesystems() == {"cgroup2"}


def own_cgroup():
    return "/sys/fs/cgroup" + next(line[3:] for line in text("/proc/self/cgroup").splitlines() if line.startswith("0::"))


def divisible(cgroup):
    """Whether a cgroup can be made there, and its parent's processes moved."""
    parent = os.path.dirname(cgroup)
    try:
        os.mkdir(f"{parent}/lockdown-holds")
        os.rmdir(f"{parent}/lockdown-holds")
    except OSError:
        return False
    return os.access(f"{parent}/cgroup.procs", os.W_OK)


def forks(many):
    """How many children, of `many`, could be had at once."""
    children = []
    try:
        for _ in range(many):
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
            os.close(reader)
            children.append((child, writer))
    except OSError:
        pass
    for _, writer in children:
        os.close(writer)
    for child, _ in children:
        os.waitpid(child, 0)
    return len(children)


def lower_oom_score():
    """0, or the errno, of asking for a lower oom_score_adj than an unprivileged process may have."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-500")
    except OSError as error:
        return error.errno
    return 0


def interface_is_up(name):
    get_flags, up = 0x8913, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        reply = fcntl.ioctl(probe, get_flags, struct.pack("16sh14x", name.encode(), 0))
    return bool(struct.unpack("16sh14x", reply)[1] & up)
