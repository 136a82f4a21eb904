# Set-up that tests/run and contrib/demo share. Source it; it runs nothing by itself.
#
# Started as root (or with sudo), it makes an ordinary user with subordinate ids, and everything under test runs as that
# user. Started by an ordinary user, that user is the one. The toolchain runs as whoever owns it, the product never as root.
# shellcheck shell=bash

setup_user=            # the ordinary user
setup_home=            # her home directory
setup_work=            # one directory for this run, removed on every way out
setup_repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# setup_packages PROGRAM-OR-FILE=PACKAGE…: installs the Debian packages whose program or file is missing.
setup_packages() {
    local pair wanted missing=()
    for pair in "$@"; do
        wanted=${pair%%=*}
        case $wanted in
        /*) [[ -e $wanted ]] || missing+=("${pair#*=}") ;;
        *) command -v "$wanted" >/dev/null || missing+=("${pair#*=}") ;;
        esac
    done
    ((${#missing[@]})) || return 0
    local apt=(apt-get)
    if ((EUID != 0)); then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null ||
            die "these packages are missing: ${missing[*]}; ask the administrator for: apt-get install ${missing[*]}"
        apt=(sudo -n apt-get)
    fi
    command -v apt-get >/dev/null || die "these packages are missing, and this is not Debian: ${missing[*]}"
    say "installing ${missing[*]}"
    # A machine that was just made has no package lists; a stale third-party source must not stop us.
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" -qq -o Acquire::Retries=2 update >&2 || say "apt-get update failed; trying with the lists there are"
    DEBIAN_FRONTEND=noninteractive "${apt[@]}" -qq install -y --no-install-recommends "${missing[@]}" >&2
}

# setup_ordinary_user: decides who runs the product; as root makes the account `lodger` and its subordinate ids.
setup_ordinary_user() {
    if ((EUID != 0)); then
        setup_user=$(id -un)
    else
        setup_user=lodger
        id "$setup_user" >/dev/null 2>&1 || useradd -m -s /bin/bash "$setup_user"
        setup_subordinate_ids
        setup_group
        # Like an account that limits.conf(5) lets ask for real-time priority, and only if asked, as the soft limits stay.
        # Root of a virtual machine may have no CAP_SYS_RESOURCE.
        ulimit -H -r 20 -e 30 2>/dev/null || true
    fi
    setup_home=$(getent passwd "$setup_user" | cut -d: -f6)
}

# 65536 ids after the highest range there is, if she has none.
setup_subordinate_ids() {
    local kind file next
    for kind in uid gid; do
        file=/etc/sub$kind
        touch "$file"
        grep -q "^$setup_user:" "$file" && continue
        next=$(awk -F: 'BEGIN { n = 100000 } $2 + $3 > n { n = $2 + $3 } END { print n }' "$file")
        usermod --add-sub"${kind}"s "$next-$((next + 65535))" "$setup_user"
    done
}

# A supplementary group, as is given for a shared directory or a device: one that no container maps.
setup_group() {
    local group=$setup_user-shared
    getent group "$group" >/dev/null || groupadd --system "$group"
    [[ " $(id -Gn "$setup_user") " == *" $group "* ]] || usermod --append --groups "$group" "$setup_user"
}

# setup_workdir NAME: makes $setup_work, hers, which goes away with this shell.
setup_workdir() {
    setup_work=$(mktemp -d "/var/tmp/$1.XXXXXX")
    trap setup_cleanup EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    chmod 755 "$setup_work"
    mkdir -m 700 "$setup_work/run" "$setup_work/tmp"
    ((EUID != 0)) || chown "$setup_user:" "$setup_work/run" "$setup_work/tmp"
}

# Prints the pids of the processes that run a program of this run, or have a mount of it, as a container has its root.
setup_processes() {
    local process everywhere=
    # A mount of this run that we see ourselves is seen by every process of the machine, and says nothing about one.
    ! grep -qsF "$setup_work/" /proc/self/mountinfo || everywhere=1
    for process in /proc/[0-9]*; do
        if [[ $(readlink "$process/exe" 2>/dev/null) == "$setup_work"/* ]] ||
            { [[ -z $everywhere ]] && grep -qsF "$setup_work/" "$process/mountinfo"; }; then
            echo "${process#/proc/}"
        fi
    done
}

# setup_background COMMAND…: runs it beside this shell, which waits for it as for any $!, and ends it and all that it has started.
setup_background() {
    # Which makes it a process group, and spares it the keys that interrupt this shell: that ends it itself.
    set -m
    "$@" </dev/null &
    set +m
}

setup_cleanup() {
    local status=$? left group
    trap - EXIT
    # Of setup_background; who has ended may have left its number to somebody else.
    for group in $(jobs -pr); do
        kill -TERM -- "-$group" 2>/dev/null || true
    done
    # A test that was killed leaves its containers.
    left=$(setup_processes)
    # One that has ended meanwhile is no failure.
    # shellcheck disable=SC2086 # one word a pid
    [[ -z $left ]] || kill -KILL $left 2>/dev/null || true
    if ! rm -rf --one-file-system "$setup_work" 2>/dev/null; then
        # Not root: what subordinate ids own is removed as the root of a user namespace that maps them.
        unshare --map-root-user --map-auto rm -rf --one-file-system "$setup_work" ||
            say "warning: $setup_work could not be removed"
    fi
    exit "$status"
}

# as_user [NAME=VALUE…] COMMAND…: runs it as the ordinary user, with a clean environment and no capability.
as_user() {
    local clean=(env -i "HOME=$setup_home" "USER=$setup_user" "LOGNAME=$setup_user" LANG=C.UTF-8
        PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
        "TMPDIR=$setup_work/tmp" "XDG_RUNTIME_DIR=$setup_work/run")
    if ((EUID == 0)); then
        setpriv --reuid="$setup_user" --regid="$(id -g "$setup_user")" --init-groups --inh-caps=-all "${clean[@]}" "$@"
    else
        "${clean[@]}" "$@"
    fi
}

# toolchain COMMAND…: runs cargo and its friends as the owner of the toolchain: ourselves, or who called sudo.
toolchain() {
    local home=$HOME as=()
    if ! PATH=$PATH:$home/.cargo/bin command -v cargo >/dev/null && ((EUID == 0)) && [[ -n ${SUDO_USER:-} ]]; then
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        as=(setpriv --reuid="$SUDO_USER" --regid="$(id -g "$SUDO_USER")" --init-groups --inh-caps=-all)
    fi
    PATH=$PATH:$home/.cargo/bin command -v cargo >/dev/null ||
        die "cargo is not installed: get Rust 1.90 or newer from https://rustup.rs"
    "${as[@]}" env "HOME=$home" "PATH=$PATH:$home/.cargo/bin" "$@"
}

# setup_product: builds the release binary and puts a copy that she cannot write at $setup_work/bin/lodger.
setup_product() {
    local built
    built=$(toolchain "$setup_repository/contrib/build-static")
    mkdir -p "$setup_work/bin"
    install -m 755 "$built" "$setup_work/bin/lodger"
}

setup_cache_directory() {
    if ((EUID == 0)); then
        echo /var/cache/lodger-tests
    else
        echo "${XDG_CACHE_HOME:-$HOME/.cache}/lodger-tests"
    fi
}

# setup_debian_tar: prints the path of a tar of a small Debian; fails where none is to be had.
setup_debian_tar() {
    setup_tar bookworm essential "a Debian root filesystem" --variant=essential -- ./etc/debian_version
}

# setup_other_release: prints the path of a tar of a bit of another release of Debian than the one that lodger is built on, unpacked
# packages alone, with a parser of AppArmor 4; fails where none is to be had.
setup_other_release() {
    setup_tar trixie unpacked "a bit of Debian trixie" --variant=extract \
        --include=base-files,dash,coreutils,util-linux,uidmap,apparmor,busybox-static -- \
        ./etc/debian_version ./usr/bin/newuidmap ./usr/sbin/apparmor_parser
}

# setup_tar SUITE KIND TITLE OPTION… -- MEMBER…: prints the path of a tar that mmdebstrap makes with these options, and that has these
# members. It has its name only when it is complete.
setup_tar() {
    local suite=$1 kind=$2 title=$3 directory tar partial architecture options=()
    shift 3
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    architecture=$(dpkg --print-architecture 2>/dev/null) || return 1
    directory=$(setup_cache_directory)
    tar=$directory/debian-$suite-$kind-$architecture.tar
    if [[ ! -s $tar ]]; then
        command -v mmdebstrap >/dev/null || return 1
        mkdir -p "$directory"
        partial=$(mktemp "$directory/.partial.XXXXXX.tar")
        say "making $title (once; kept at $tar)"
        if timeout 300 mmdebstrap --quiet "${options[@]}" --format=tar "$suite" >"$partial" </dev/null &&
            tar -tf "$partial" "$@" >/dev/null; then
            chmod 644 "$partial"
            mv "$partial" "$tar"
        else
            rm -f "$partial"
            return 1
        fi
    fi
    printf '%s\n' "$tar"
}

# setup_criu DIRECTORY SUITE LEAST: puts there the CRIU of a suite of Debian, of at least this version, with the libraries it was built
# for: DIRECTORY/criu runs it. Fails where there is none. The machine's own packages have no part in it, and no change.
setup_criu() {
    local kept loader library
    kept=$(criu_kept "$2" "$3") || return 1
    mkdir -p "$1"
    cp -r --reflink=auto -T "$kept" "$1/root"
    loader=$(find "$1/root" -name 'ld-linux*.so.*' -print -quit)
    library=$(basename "$(dirname "$(find "$1/root" -name libc.so.6 -print -quit)")")
    # By its absolute path: whoever runs it may have it open, and give no name.
    cat >"$1/criu" <<END
#!/bin/sh
exec '$loader' --library-path '$1/root/usr/lib/$library:$1/root/lib/$library' '$1/root/usr/sbin/criu' "\$@"
END
    chmod 755 "$1/criu"
    chmod -R a+rX "$1"
    "$1/criu" --version >/dev/null
}

# criu_kept SUITE LEAST: prints the directory where the files of that CRIU are kept; they have their name only when they are complete.
criu_kept() {
    local suite=$1 least=$2 directory architecture version kept partial status=0
    architecture=$(dpkg --print-architecture 2>/dev/null) || return 1
    directory=$(setup_cache_directory)
    for kept in "$directory/criu-$suite"-*"-$architecture"; do
        version=${kept#"$directory/criu-$suite-"}
        if [[ -d $kept ]] && dpkg --compare-versions "${version%"-$architecture"}" ge "$least"; then
            printf '%s\n' "$kept"
            return
        fi
    done
    mkdir -p "$directory"
    partial=$(mktemp -d "$directory/.criu.XXXXXX")
    # apt-get of root downloads as a user of its own.
    chmod 755 "$partial"
    say "fetching CRIU of Debian $suite (once; kept in $directory)"
    kept=$(criu_fetched "$partial" "$suite" "$least" "$directory") || status=$?
    rm -rf "$partial"
    ((status == 0)) && printf '%s\n' "$kept"
}

# criu_fetched PARTIAL SUITE LEAST DIRECTORY: downloads it with an apt that has PARTIAL for all it knows, and unpacks it.
criu_fetched() {
    local at=$1 suite=$2 least=$3 keys=/usr/share/keyrings/debian-archive-keyring.gpg version kept file
    [[ -e $keys ]] || return 1
    mkdir -p "$at"/{lists,archives}/partial "$at/etc/preferences.d" "$at/root"
    echo "deb [signed-by=$keys] http://deb.debian.org/debian $suite main" >"$at/etc/sources.list"
    : >"$at/status"
    local apt=(timeout 300 apt-get -qq -o "Dir::Etc=$at/etc" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State=$at"
        -o "Dir::State::status=$at/status" -o "Dir::Cache=$at" -o APT::Default-Release= -o Acquire::Languages=none -o Acquire::Retries=2)
    "${apt[@]}" update >&2 && "${apt[@]}" install -y --download-only --no-install-recommends criu >&2 || return 1
    file=$(find "$at/archives" -name 'criu_*.deb' -print -quit)
    version=$(dpkg-deb --field "$file" Version) && dpkg --compare-versions "$version" ge "$least" || return 1
    for file in "$at"/archives/{criu,lib}*.deb; do
        [[ $file == *python* ]] || dpkg-deb --extract "$file" "$at/root" || return 1
    done
    rm -rf "$at"/root/usr/share "$at"/root/usr/lib/*/gconv
    kept=$4/criu-$suite-$version-$(dpkg --print-architecture)
    mv -T "$at/root" "$kept" || return 1
    printf '%s\n' "$kept"
}

# setup_images: prints the directory of the tests' images, which tests/images/make makes as her; fails where none is to be had.
setup_images() {
    local cache tar images partial work=$setup_work/tmp/images turn
    tar=$(setup_debian_tar) || return 1
    cache=$(setup_cache_directory)
    images=$cache/images-$({
        cat "$setup_repository"/tests/images/{make,changes.py}
        stat -c '%s %Y' "$tar"
    } | sha256sum | cut -c1-16)
    exec {turn}>"$cache/images.lock"
    flock "$turn"
    if [[ ! -d $images ]]; then
        say "making images (once; kept at $images)"
        rm -rf "$cache"/images-partial.*
        cp -r "$setup_repository/tests/images" "$setup_work/"
        chmod -R a+rX "$setup_work/images"
        as_user mkdir "$work"
        if ! as_user env -C "$work" timeout 600 "$setup_work/images/make" "$tar" </dev/null >&2; then
            as_user unshare --user --map-root-user --map-auto rm -rf "$work"
            return 1
        fi
        partial=$(mktemp -d "$cache/images-partial.XXXXXX")
        # Called where a failure does not end the shell.
        cp -r "$work/oci" "$partial/" && chmod -R a+rX "$partial" && rm -rf "$work" && mv -T "$partial" "$images" || return 1
    fi
    touch "$images"
    find "$cache" -maxdepth 1 -name 'images-?*' -type d -mtime +14 -exec rm -rf {} +
    printf '%s\n' "$images"
}

# setup_rootfs DIRECTORY: unpacks a Debian root filesystem there, owned by her; busybox where Debian is not to be had.
# Prints which of the two it is.
setup_rootfs() {
    local tar
    as_user mkdir -p "$1"
    if tar=$(setup_debian_tar); then
        # Device nodes cannot be made by her, and need not be: a container's /dev is a mount of its own.
        as_user tar -x --no-same-owner --exclude='./dev/*' -C "$1" <"$tar"
        echo debian
    else
        say "the Debian package mirror is not to be had: using busybox for the root filesystem"
        setup_busybox "$1"
        echo busybox
    fi
}

# programs_tar: prints the path of a tar with what redis and Python need to run; fails where they are not to be had.
programs_tar() {
    setup_tar bookworm programs "a bit of Debian with redis and Python" --variant=extract \
        --include=base-files,dash,coreutils,redis-server,redis-tools,python3-minimal -- \
        ./usr/bin/redis-server ./usr/bin/redis-cli ./usr/bin/python3
}

# setup_programs DIRECTORY: unpacks that there, owned by her.
setup_programs() {
    local tar
    tar=$(programs_tar) || return 1
    as_user mkdir -p "$1"
    as_user tar -x --no-same-owner --exclude='./dev/*' --exclude='./usr/share/*' -C "$1" <"$tar"
}

setup_busybox() {
    local busybox
    busybox=$(command -v busybox) || die "neither a Debian mirror nor busybox-static: no root filesystem to run"
    as_user mkdir -p "$1"/{bin,dev,etc,proc,root,run,sys,tmp,var/tmp}
    as_user cp "$busybox" "$1/bin/busybox"
    as_user "$busybox" sh -c 'for name in $("$0" --list); do [ "$name" = busybox ] || ln -s busybox "$1/bin/$name"; done' "$busybox" "$1"
    as_user sh -c 'echo root:x:0:0:root:/root:/bin/sh >"$1/etc/passwd"; echo root:x:0: >"$1/etc/group"' sh "$1"
}
