#!/bin/bash
# The rounds of `contrib/bench --scope`: run by the ordinary user in her systemd user session.
#
# Usage: scopes.sh DIRECTORY ROUNDS
# DIRECTORY has the programs lodger and stopwatch, and the bundles true and sleep. Prints a line for each measurement that
# counts: RUNTIME NANOSECONDS KIB.
set -euo pipefail
place=$1 rounds=$2 number=0
declare -A program=([lodger]="$place/lodger --cgroup-manager systemd" [crun]="crun --systemd-cgroup" [runc]="runc --systemd-cgroup")

die() {
    echo "$*" >&2
    exit 1
}

# Who makes no scope is fast.
prove() {
    local pid
    ${program[$1]} run -d --pid-file "$HOME/bench.pid" -b "$place/sleep" "proof-$1" </dev/null >/dev/null 2>&1 || die "$1 does not run"
    pid=$(<"$HOME/bench.pid")
    grep -q '^0::.*/user@.*\.scope' "/proc/$pid/cgroup" || die "$1 makes no scope: $(grep ^0:: "/proc/$pid/cgroup")"
    ${program[$1]} delete --force "proof-$1" >/dev/null
}

measure() { # RUNTIME: sets nanoseconds, kib
    local status
    number=$((number + 1))
    sleep 0.01 # the kernel takes namespaces apart in the background
    # shellcheck disable=SC2046,SC2086 # words
    read -r nanoseconds kib status < <("$place/stopwatch" $(command -v ${program[$1]%% *}) ${program[$1]#* } run -b "$place/true" "scope-$1-$number" \
        3>&1 >/dev/null 2>"$HOME/bench.err" </dev/null)
    [[ $status == 0 ]] || die "$1 run ended with $status: $(tail -n 1 "$HOME/bench.err")"
}

for name in lodger crun runc; do prove "$name"; done
orders=("lodger crun runc" "runc lodger crun" "crun runc lodger")
for ((round = -3; round < rounds; round++)); do
    for name in ${orders[(round + 3) % 3]}; do
        measure "$name"
        ((round < 0)) || echo "$name $nanoseconds $kib"
    done
done
