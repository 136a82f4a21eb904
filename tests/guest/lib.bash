# What the guests share. Source it; it runs nothing by itself.
# shellcheck shell=bash
# shellcheck source=tests/lib/setup.bash
source "$(dirname "${BASH_SOURCE[0]}")/../lib/setup.bash"

guest=$setup_repository/tests/guest
guest_run=/run/lodger-guest
shares=()   # directories that the guest sees, where they are, read-only
enable=     # whether controllers that nobody uses are enabled for the time being
limit=2400  # seconds
command=()
work=       # this call's directory, which nobody outlives
control=    # what is told and heard, /run/lodger-tests in the guest
runner=     # the process that is the guest

# Told apart from what the command ends with.
fail() {
    say "${0##*/}: $*"
    exit 125
}

# shellcheck disable=SC2034 # tests/guest/session has a use for enable
guest_arguments() {
    while (($#)); do
        case $1 in
        --share)
            shares+=("$(realpath -e "$2")") || fail "there is no $2"
            shift
            ;;
        --limit)
            limit=$2
            shift
            ;;
        --enable) enable=1 ;;
        --)
            shift
            command=("$@")
            break
            ;;
        *) fail "what is $1?" ;;
        esac
        shift
    done
    ((${#command[@]})) || fail "usage: ${0##*/} [--share DIRECTORY]… [--limit SECONDS] [--enable] -- COMMAND…"
    ((EUID == 0)) || fail "a guest is started by root"
}

# guest_begin KIND: makes the work directory, and removes what calls that were killed have left. Who lives holds a lock.
guest_begin() {
    local turn
    mkdir -p "$guest_run"
    exec {turn}>"$guest_run/lock"
    flock "$turn"
    for left in "/var/tmp/lodger-$1".*; do
        if [[ -e $left/lock ]] && flock -n "$left/lock" true; then
            guest_sweep "$left"
            rm -rf --one-file-system "$left"
        fi
    done
    work=$(mktemp -d "/var/tmp/lodger-$1.XXXXXX")
    trap guest_leave EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    exec {lock}>"$work/lock"
    flock "$lock"
    exec {turn}>&-

    control=$work/control
    mkdir -m 755 "$control"
    printf '%s\n' ${shares[@]+"${shares[@]}"} | sed '/^$/d' >"$control/shares"
    # Without what systemd tells a service. What a signal ends is told as a shell does.
    # shellcheck disable=SC2016 # for the guest to expand
    printf 'unset INVOCATION_ID JOURNAL_STREAM SYSTEMD_EXEC_PID\nexport DBUS_SESSION_BUS_ADDRESS=${DBUS_SESSION_BUS_ADDRESS:-unix:path=$XDG_RUNTIME_DIR/bus} LANG=C.UTF-8\n%s\nexit $?\n' \
        "$(printf '%q ' "${command[@]}")" >"$control/command"
}

# guest_await LOG…: waits for the end of the runner, and ends as the command in there did. LOG: where a guest that did not come so
# far has said why.
guest_await() {
    local status=0
    { wait "$runner"; } 2>/dev/null || status=$?
    runner=
    # A guest that did not come so far has written neither, which is told below.
    cat "$control/out" 2>/dev/null || true
    cat "$control/err" >&2 2>/dev/null || true
    [[ ! -s $control/status ]] || exit "$(<"$control/status")"
    tail -n 30 "$@" >&2
    ((status != 137)) || { say "${0##*/}: no end after $limit seconds"; exit 124; }
    fail "it ended ($status) before the command did"
}

# Nothing but the directory; a guest that leaves more has its own, as of the next.
guest_sweep() { :; }

guest_leave() {
    local status=$?
    trap - EXIT
    if [[ -n $runner ]]; then
        # It may have ended by itself, and how it ends is of no interest any more.
        kill -KILL "$runner" 2>/dev/null || true
        wait "$runner" 2>/dev/null || true
    fi
    rm -rf --one-file-system "$work"
    exit "$status"
}
