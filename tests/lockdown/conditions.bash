# The conditions of tests/lockdown/lockdown: `# NAME: what it is`, and a function that makes it as root, in private mount and pid namespaces.
# shellcheck shell=bash disable=SC2034,SC2154 # read and set by tests/lockdown/lockdown

user= uid= gid= home=   # of the command
runtime=ready           # XDG_RUNTIME_DIR: ready, unset, missing, foreign, or bus
before=()               # a command, and its arguments, that runs the rest as root
filters=()              # names that tests/lockdown/filter knows
privileges=()           # options of setpriv(1)
after=()                # a command that runs the rest as the user
hers=()                 # files to be given to the user, whoever that is in the end
delegated=              # a cgroup to be removed at the end

# cannot WHY: this machine cannot make the condition.
cannot() {
    say "lockdown: $*"
    exit 77
}

# put FILE TEXT: FILE has TEXT.
put() {
    local file
    file=$(mktemp /tmp/put.XXXXXX)
    printf '%s' "$2" >"$file"
    chmod 644 "$file"
    mount --bind "$file" "$1"
    rm "$file"
}

# subordinate [UIDS [GIDS]]: /etc/subuid and /etc/subgid have these lines.
subordinate() {
    put /etc/subuid "$1"
    put /etc/subgid "${2-$1}"
}

# /dev/shm is empty, and of /var/tmp everything is there but what lodger has left: the command's own is gone with it.
own_places() {
    local old entry
    mount -t tmpfs -o mode=1777 lockdown /dev/shm
    old=$(mktemp -d /tmp/old.XXXXXX)
    mount --rbind /var/tmp "$old"
    mount -t tmpfs -o mode=1777 lockdown /var/tmp
    for entry in "$old"/*; do
        case ${entry##*/} in lodger-[0-9]* | lodger-store-*) continue ;; esac
        [[ -d $entry && ! -L $entry ]] || continue
        mkdir "/var/tmp/${entry##*/}"
        mount --rbind "$entry" "/var/tmp/${entry##*/}"
    done
    umount -l "$old"
    rmdir "$old"
}

# The directory of the id map helpers becomes one that can be changed.
open_helpers() {
    local changes
    changes=$(mktemp -d /tmp/changes.XXXXXX)
    mount -t tmpfs lockdown "$changes"
    mkdir "$changes/upper" "$changes/work"
    mount -t overlay -o "lowerdir=/usr/bin,upperdir=$changes/upper,workdir=$changes/work" lockdown /usr/bin
    umount -l "$changes"
    rmdir "$changes"
}

# The user has a uid that nobody else on this machine has, for limits that count all processes or keys of one.
own_uid() {
    # Nor anybody in another condition at the same time.
    uid=$((61000 + $(stat -Lc %i /proc/self/ns/pid) % 4096))
    put /etc/passwd "$(sed -E "s/^($user:[^:]*):[0-9]+:/\1:$uid:/" /etc/passwd)"$'\n'
    mount -t tmpfs -o "mode=755,uid=$uid,gid=$gid" lockdown "$home"
}

# /run/systemd is a new directory that says that systemd was booted.
own_systemd() {
    # Only systemd has the directory, and it is not to be made in the machine's own /run.
    [[ -d /run/systemd ]] || cannot "this machine has no /run/systemd"
    mount -t tmpfs -o mode=755 lockdown /run/systemd
    mkdir /run/systemd/system
}

# devices [NAME:MAJOR:MINOR…]: a container's /dev, with these nodes more.
devices() {
    local dev node name major minor link
    dev=$(mktemp -d /tmp/dev.XXXXXX)
    mount -t tmpfs -o mode=755 lockdown "$dev"
    mkdir "$dev/pts" "$dev/shm" "$dev/net"
    for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 "$@"; do
        IFS=: read -r name major minor <<<"$node"
        mknod -m 666 "$dev/$name" c "$major" "$minor"
    done
    for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2 ptmx:pts/ptmx; do
        ln -s "${link#*:}" "$dev/${link%%:*}"
    done
    mount --bind /dev/pts "$dev/pts"
    mount -t tmpfs -o mode=1777 lockdown "$dev/shm"
    mount --rbind "$dev" /dev
    umount -l "$dev"
    rmdir "$dev"
}

# kernel_parameter NAME VALUE: /proc/sys/kernel has a file that this kernel does not have.
kernel_parameter() {
    local copy
    copy=$(mktemp -d /tmp/kernel.XXXXXX)
    # Some of them only root of the first user namespace reads, or nobody.
    cp -r --no-preserve=all /proc/sys/kernel/. "$copy" 2>/dev/null || true
    echo "$2" >"$copy/$1"
    chmod -R a+rX "$copy"
    mount --bind -o ro "$copy" /proc/sys/kernel
}

# The hierarchy is version 2 alone.
cgroup2() {
    ! mountpoint -q /sys/fs/cgroup || umount -R /sys/fs/cgroup
    mount -t cgroup2 lockdown /sys/fs/cgroup
}

# delegate DIRECTORY: the command is in a cgroup of its own beneath it, which is the user's to divide.
delegate() {
    local own=$1/own
    mkdir "$own" "$own/command"
    hers+=("$own" "$own/command" "$own"/{,command/}cgroup.{procs,threads,subtree_control})
    # shellcheck disable=SC2016 # for the inner shell
    before+=(sh -c 'echo 0 >"$0/cgroup.procs" && exec "$@"' "$own/command")
}

new_cgroup() {
    cgroup2
    delegated=$(mktemp -d /sys/fs/cgroup/lockdown.XXXXXX)
    chmod 755 "$delegated"
}

tidy() {
    [[ -n $delegated ]] || return 0
    ! [[ -e $delegated/cgroup.kill ]] || echo 1 >"$delegated/cgroup.kill"
    for _ in {1..50}; do
        find "$delegated" -depth -type d -exec rmdir {} + 2>/dev/null && return
        sleep 0.1
    done
    say "lockdown: the cgroup $delegated stays"
}

make_runtime_directory() {
    mount -t tmpfs -o mode=755 lockdown /run/user
    local directory=/run/user/$uid ready
    case $runtime in
    ready) install -d -m 700 -o "$uid" -g "$gid" "$directory" ;;
    foreign) install -d -m 700 "$directory" ;;
    bus)
        install -d -m 700 -o "$uid" -g "$gid" "$directory"
        # shellcheck disable=SC2154
        read -r ready < <(setpriv --reuid="$uid" --regid="$gid" --clear-groups "$here/deaf-bus" "$directory/bus")
        [[ $ready == ready ]]
        ;;
    esac
}

# none: an ordinary user of this machine
condition_none() { :; }

## User namespaces

# no-userns: user.max_user_namespaces is 0
condition_no-userns() { before+=("$here/nest" --limit 0); }

# one-userns: user.max_user_namespaces is 1: the first works, none within it, nor the next one for a moment
condition_one-userns() { before+=("$here/nest" --limit 1); }

# deep-userns: user namespaces are nested as deep as the kernel lets them be
condition_deep-userns() { before+=("$here/nest" --depth 33); }

# deep-userns-one: user namespaces are nested so deep that there is room for one more
condition_deep-userns-one() { before+=("$here/nest" --depth 32); }

# userns-clone-off: kernel.unprivileged_userns_clone is 0, as Debian's kernels know it (the file is ours, and a filter obeys it)
condition_userns-clone-off() {
    kernel_parameter unprivileged_userns_clone 0
    filters+=(userns)
}

# userns-apparmor: kernel.apparmor_restrict_unprivileged_userns is 1, as on Ubuntu (the file is ours, and a filter obeys it)
condition_userns-apparmor() {
    kernel_parameter apparmor_restrict_unprivileged_userns 1
    filters+=(apparmor)
}

# unmapped: a user namespace in which the user's ids are not mapped
condition_unmapped() { after+=(unshare --user); }

# chroot: the root directory is not that of the mount namespace
condition_chroot() {
    mkdir /tmp/root
    # When all other mounts are there.
    # shellcheck disable=SC2016 # for the inner shell
    before+=(sh -c 'mount --rbind / "$0" && exec chroot "$0" "$@"' /tmp/root)
}

## newuidmap, newgidmap and the subordinate ids

# no-newuidmap: newuidmap and newgidmap are not there
condition_no-newuidmap() { open_helpers; rm -f /usr/bin/new{u,g}idmap; }

# newuidmap-nosuid: they have neither the set-user-id bit nor file capabilities
condition_newuidmap-nosuid() {
    open_helpers
    # Most have none to be taken away, which setcap(8) calls a failure.
    setcap -r /usr/bin/newuidmap 2>/dev/null || true
    setcap -r /usr/bin/newgidmap 2>/dev/null || true
    chmod u-s /usr/bin/new{u,g}idmap
}

# newuidmap-nosuid-mount: they are on a mount with nosuid
condition_newuidmap-nosuid-mount() { open_helpers; mount -o remount,bind,nosuid /usr/bin; }

# newuidmap-caps: they have file capabilities, and no set-user-id bit
condition_newuidmap-caps() {
    open_helpers
    chmod u-s /usr/bin/new{u,g}idmap
    setcap cap_setuid=ep /usr/bin/newuidmap
    setcap cap_setgid=ep /usr/bin/newgidmap
}

# newuidmap-unsafe: others than root can write to them
condition_newuidmap-unsafe() { open_helpers; chmod o+w /usr/bin/new{u,g}idmap; }

# newuidmap-fails: they are as they should be, and refuse all the same
condition_newuidmap-fails() {
    local helper
    open_helpers
    for helper in newuidmap newgidmap; do
        printf '#!/bin/sh\necho "%s: not today" >&2\nexit 1\n' $helper >/usr/bin/$helper
        chmod 4755 /usr/bin/$helper
    done
}

# nnp: no_new_privs is on, as with allowPrivilegeEscalation: false
condition_nnp() { privileges+=(--no-new-privs); }

# no-bset: the capability bounding set is empty, as with drop: ALL
condition_no-bset() { privileges+=(--bounding-set=-all); }

# no-subuid: no subordinate ids
condition_no-subuid() { subordinate ""; }

# small-subuid: 1000 subordinate ids
condition_small-subuid() { subordinate "$user:100000:1000"$'\n'; }

# uid-subuid: subordinate ids under the number of the user
condition_uid-subuid() { subordinate "$uid:100000:65536"$'\n'; }

# subuid-only: subordinate uids, and no gids
condition_subuid-only() { subordinate "$user:100000:65536"$'\n' ""; }

# subgid-only: subordinate gids, and no uids
condition_subgid-only() { subordinate "" "$user:100000:65536"$'\n'; }

# bad-subuid: lines that cannot be read, and one good one
condition_bad-subuid() {
    subordinate "# ids"$'\n\n'"$user:x:1"$'\n'"$user:200000"$'\n'"$user:100000:65536"$'\n' "$user:100000:65536"$'\n'
}

# overflow-subuid: a line that goes past the last id, and a good one
condition_overflow-subuid() { subordinate "$user:4294967290:65536"$'\n'"$user:100000:65536"$'\n'; }

# overlap-subuid: two lines that overlap
condition_overlap-subuid() { subordinate "$user:100000:65536"$'\n'"$user:120000:65536"$'\n'; }

# own-subuid: a line that gives the user her own id, and a good one
condition_own-subuid() { subordinate "$user:$uid:1"$'\n'"$user:100000:65536"$'\n' "$user:$gid:1"$'\n'"$user:100000:65536"$'\n'; }

# no-passwd: a uid without an entry in passwd, of the group root, with / as its home
condition_no-passwd() { user= uid=61002 gid=0 home=/; }

# no-passwd-subuid: as no-passwd, with subordinate ids under the number of the user
condition_no-passwd-subuid() { condition_no-passwd; subordinate "$uid:100000:65536"$'\n'; }

## /proc, /sys and mounts

# masked-proc: paths of /proc and /sys are masked or read-only, as in a container
condition_masked-proc() {
    local path
    for path in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do
        [[ ! -e $path ]] || mount --bind /dev/null "$path"
    done
    for path in /proc/acpi /proc/scsi /sys/firmware; do
        [[ ! -d $path ]] || mount -t tmpfs -o ro lockdown "$path"
    done
    for path in /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger; do
        [[ ! -e $path ]] || { mount --bind "$path" "$path" && mount -o remount,bind,ro "$path"; }
    done
}

# proc-ro: /proc is read-only
condition_proc-ro() { mount -o remount,ro /proc; }

# no-proc: nothing is mounted at /proc
condition_no-proc() { while umount -l /proc 2>/dev/null; do :; done; }

# no-proc-sys: /proc/sys is empty
condition_no-proc-sys() { mount -t tmpfs -o ro lockdown /proc/sys; }

# masked-sys: a path of /sys is masked
condition_masked-sys() { mount -t tmpfs -o ro lockdown /sys/firmware; }

# sys-ro: /sys is read-only
condition_sys-ro() { mount -o remount,bind,ro /sys; }

# no-sys: nothing is mounted at /sys
condition_no-sys() { umount -R /sys; }

# hidepid: /proc shows the processes of the user alone
condition_hidepid() { mount -o remount,hidepid=2 /proc; }

# seccomp-docker: a container engine's filter: neither namespaces nor mounts nor keys
condition_seccomp-docker() { filters+=(docker); }

# seccomp-mount: a filter that refuses to mount (EPERM)
condition_seccomp-mount() { filters+=(mount); }

# seccomp-newapi: a filter that refuses the newer calls that mount (EPERM)
condition_seccomp-newapi() { filters+=(newapi); }

# seccomp-nosys: newer calls are not there (ENOSYS), as with an old kernel
condition_seccomp-nosys() { filters+=(nosys); }

# seccomp-nosys-eperm: newer calls are refused (EPERM), as by an old filter
condition_seccomp-nosys-eperm() { filters+=(nosys-eperm); }

# seccomp-keyctl: a filter that refuses keyrings (EPERM)
condition_seccomp-keyctl() { filters+=(keyctl); }

# seccomp-chown: files cannot be given away (EPERM), as on NFS with squashed ids
condition_seccomp-chown() { filters+=(chown); }

# seccomp-xattr: files have no extended attributes (EOPNOTSUPP)
condition_seccomp-xattr() { filters+=(xattr); }

# seccomp-ptrace: a filter that refuses ptrace and its like (EPERM)
condition_seccomp-ptrace() { filters+=(ptrace); }

# apparmor-like: mounts are refused as by a security module (EACCES)
condition_apparmor-like() { filters+=(apparmor); }

# old-kernel: the kernel says that it is 2.6
condition_old-kernel() { before+=(setarch --uname-2.6); }

## Devices

# no-tun: a container's /dev: neither /dev/net/tun nor /dev/fuse
condition_no-tun() { devices; }

# devs: /dev/fuse and /dev/net/tun are there for everybody
condition_devs() { devices fuse:10:229 net/tun:10:200; }

# no-dev-shm: /dev/shm cannot be written to
condition_no-dev-shm() { mount -t tmpfs -o ro,size=4k lockdown /dev/shm; }

## The session

# no-xdg: no XDG_RUNTIME_DIR, and nothing in /run/user
condition_no-xdg() { runtime="unset"; }

# xdg-missing: XDG_RUNTIME_DIR names a directory that is not there
condition_xdg-missing() { runtime=missing; }

# xdg-wrong-owner: XDG_RUNTIME_DIR belongs to root
condition_xdg-wrong-owner() { runtime=foreign; }

# no-systemd: XDG_RUNTIME_DIR has no bus, and the machine was not booted with systemd
condition_no-systemd() { [[ ! -d /run/systemd ]] || mount -t tmpfs -o mode=755 lockdown /run/systemd; }

# no-bus: XDG_RUNTIME_DIR has no bus, though the machine has a systemd (a directory says so)
condition_no-bus() { own_systemd; }

# no-linger: a session with a bus, and no lingering
condition_no-linger() {
    runtime=bus
    own_systemd
    [[ ! -d /var/lib/systemd ]] || mount -t tmpfs -o mode=755 lockdown /var/lib/systemd
}

# logout-kills: as no-linger, and KillUserProcesses=yes
condition_logout-kills() {
    condition_no-linger
    printf '[Login]\nKillUserProcesses=yes\n' >/run/systemd/logind.conf
    [[ ! -e /etc/systemd/logind.conf ]] || put /etc/systemd/logind.conf $'[Login]\nKillUserProcesses=yes\n'
}

## Where state and images are kept

# ro-home: the home directory is read-only
condition_ro-home() { mount --bind "$home" "$home"; mount -o remount,bind,ro "$home"; }

# home-private: the home directory is open to the user alone
condition_home-private() { mount -t tmpfs -o "mode=700,uid=$uid,gid=$gid" lockdown "$home"; }

# no-home: HOME is somebody else's
condition_no-home() { home=/root; }

# home-missing: HOME is not there
condition_home-missing() { home=/nonexistent/home; }

# home-noxattr: the home directory is on a filesystem without extended attributes
condition_home-noxattr() { mount -t ramfs lockdown "$home"; chown "$uid:$gid" "$home"; }

# home-noexec: the home directory is mounted with noexec, nosuid and nodev
condition_home-noexec() { mount --bind "$home" "$home"; mount -o remount,bind,noexec,nosuid,nodev "$home"; }

# home-quota: the home directory has room for 16 MiB and 300 files
condition_home-quota() { mount -t tmpfs -o "size=16m,nr_inodes=300,uid=$uid,gid=$gid,mode=755" lockdown "$home"; }

# home-bytes: the home directory is full
condition_home-bytes() {
    mount -t tmpfs -o "size=64k,uid=$uid,gid=$gid,mode=755" lockdown "$home"
    # It ends when there is no room, as it is to.
    head -c 1M /dev/zero >"$home/full" 2>/dev/null || true
}

# home-inodes: the home directory can have no more files
condition_home-inodes() {
    mount -t tmpfs -o "size=1g,nr_inodes=8,uid=$uid,gid=$gid,mode=755" lockdown "$home"
    local number=0
    while : 2>/dev/null >"$home/$number"; do number=$((number + 1)); done
}

# ro-tmp: /tmp and /var/tmp are read-only
condition_ro-tmp() {
    mount -o remount,bind,ro /tmp
    mount -o remount,bind,ro /var/tmp
}

# locked-path: a directory on the way to /srv/locked/way/rootfs can be searched by root alone
condition_locked-path() {
    mount -t tmpfs -o mode=755 lockdown /srv
    mkdir -p /srv/locked/way/rootfs
    chmod 700 /srv/locked/way
}

## Control groups

# cg-v1: version 1 alone
condition_cg-v1() {
    local points
    mapfile -t points < <(findmnt -rno TARGET -t cgroup2)
    [[ -n $(findmnt -rno TARGET -t cgroup) ]] || cannot "this machine has no cgroup hierarchy of version 1"
    ((${#points[@]} == 0)) || umount "${points[@]}"
}

# cg-hybrid: version 1 and version 2
condition_cg-hybrid() {
    [[ -n $(findmnt -rno TARGET -t cgroup) ]] || cannot "this machine has no cgroup hierarchy of version 1"
    [[ -n $(findmnt -rno TARGET -t cgroup2) ]] || cannot "this machine has no cgroup hierarchy of version 2"
}

# cg-v2: version 2 alone, not writable
condition_cg-v2() { cgroup2; }

# cg-v2-ro: version 2 alone, mounted read-only
condition_cg-v2-ro() { cgroup2; mount -o remount,bind,ro /sys/fs/cgroup; }

# cg-none: nothing is mounted at /sys/fs/cgroup
condition_cg-none() { ! mountpoint -q /sys/fs/cgroup || umount -R /sys/fs/cgroup; }

# cg-delegated: version 2 alone, with a cgroup that is the user's to divide
condition_cg-delegated() { new_cgroup; delegate "$delegated"; }

# cg-no-controller: as cg-delegated, with no controller in it
condition_cg-no-controller() {
    new_cgroup
    # It has what its parent enables for it, which is nothing.
    mkdir "$delegated/bare"
    delegate "$delegated/bare"
}

## Limits

# nofile: RLIMIT_NOFILE is 64
condition_nofile() { ulimit -n 64; }

# nproc: RLIMIT_NPROC is 16
condition_nproc() { own_uid; ulimit -u 16; }

# nproc-tight: RLIMIT_NPROC is 2
condition_nproc-tight() { own_uid; ulimit -u 2; }

# ping-empty: net.ipv4.ping_group_range has no group
condition_ping-empty() { before+=(unshare --net); }

# keyring-quota: the user has as many keys as she may have
condition_keyring-quota() { own_uid; after+=("$here/fill-keyring"); }

# oom-score: oom_score_adj is 500, and cannot be lower than it was
condition_oom-score() { echo 500 >/proc/self/oom_score_adj; }

## Networks

# net-none: a network namespace with nothing in it, as on a node without a network
condition_net-none() { before+=(unshare --net); }
