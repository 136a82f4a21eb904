# shellcheck shell=sh
# --- changes: what is planned, as a directory for each file: path, base (what is there), new (what will be), mode, values ---

# ours PATH: refuses what leads out of --root, or is a link that a rename would replace.
ours() {
    [ ! -L "$root/$1" ] || die $failed "$root/$1 is a symbolic link" "change the file that it leads to by hand"
    [ -z "$live" ] || return 0
    part=$1
    while part=${part%/*}; do
        [ ! -L "$root/$part" ] || die $failed "$root/$part is a symbolic link, which may lead out of $root"
        case $part in */*) ;; *) break ;; esac
    done
}

# look PATH: takes a copy of what is there, once, for a plan to be made from: what it reads later may be newer. $seen is the copy.
look() {
    seen=$stage/seen/$1
    [ ! -d "$(dirname "$seen")" ] || [ ! -e "$seen.looked" ] || return 0
    ours "$1"
    mkdir -p "$(dirname "$seen")"
    : >"$seen.looked"
    [ ! -e "$root/$1" ] || cat "$root/$1" >"$seen" || die $failed "$root/$1 cannot be read"
}

# change PATH: plans that it has what standard input has. Gives the entry's directory in $entry, or nothing there.
change() {
    cat >"$stage/new"
    look "$1"
    entry=
    if [ -f "$seen" ] && cmp -s "$stage/new" "$seen"; then
        say "/$1 is as it should be" >>"$stage/notes"
        return
    fi
    begin "$1"
}

# begin PATH: makes the entry that takes $stage/new there.
begin() {
    count=$((count + 1))
    entry=$stage/change.$((1000 + count))
    mkdir "$entry"
    printf '%s\n' "$1" >"$entry/path"
    [ ! -f "$seen" ] || cp "$seen" "$entry/base"
    mv "$stage/new" "$entry/new"
}

# Says what would be done, as a text that can be compared.
describe() {
    [ ! -f "$stage/notes" ] || sed 's/^/  /' "$stage/notes"
    for entry in "$stage"/change.*; do
        [ -d "$entry" ] || continue
        path=$(cat "$entry/path")
        if [ ! -f "$entry/new" ]; then
            say "  remove $root/$path"
        elif [ -f "$entry/base" ]; then
            say "  change $root/$path"
        else
            say "  make $root/$path"
        fi
        for side in base new; do
            # With an end to the last line.
            if [ -f "$entry/$side" ]; then awk 1 "$entry/$side"; fi >"$stage/$side.text"
        done
        diff "$stage/base.text" "$stage/new.text" | sed -n -e '/^[<>] *$/d; /^[<>] *#/d' -e 's/^> /      + /p; s/^< /      - /p' || :
        activation "$path" "$entry" | sed 's/^/  run: /'
    done
}

# activation PATH ENTRY: the command that makes a change to the running system, if it can be made there.
activation() {
    [ -n "$live" ] || return 0
    case $1 in
    "$linger_path"/*)
        able=disable
        [ ! -f "$2/new" ] || able=enable
        [ ! -d /run/systemd/system ] || say "loginctl $able-linger ${1##*/}"
        ;;
    "$delegate_path") [ ! -d /run/systemd/system ] || say "systemctl daemon-reload" ;;
    "$profile_path" | "$profile_paths_path")
        [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ] || return 0
        if [ -f "$2/new" ] || [ "$1" != "$profile_path" ]; then
            say "apparmor_parser --replace /$profile_path"
        else
            say "apparmor_parser --remove $2/base"
        fi
        ;;
    "$sysctl_path") [ ! -s "$2/values" ] || sed 's/^/sysctl -w /' "$2/values" ;;
    esac
}

# activate COMMAND WORD… of activation.
activate() {
    case $1 in
    sysctl)
        shift 2
        set_value "$@"
        ;;
    apparmor_parser)
        # Undone in one go with the profile itself.
        [ "$2" = --remove ] || [ -f "$3" ] || return 0
        "$@"
        ;;
    *) "$@" ;;
    esac
}

# set_value KEY=VALUE [REST OF VALUE]
set_value() {
    value=$*
    key=$(say "${1%%=*}" | tr . /) value=${value#*=}
    (printf '%s\n' "$value" >"/proc/sys/$key") 2>/dev/null || { warn "/proc/sys/$key cannot be set to $value"; return 1; }
}

# --- making the changes ---

# As shadow's commonio_lock(): a link named PATH.lock to a file that has the pid. Of a process that is gone it is taken over.
lock() {
    mine=$root/etc/.lodger-admin.lock.$$ waited=0
    [ ! -d "$root/$1.lock" ] || die $locked "$root/$1.lock is a directory"
    printf '%s\0' "$$" >"$mine"
    until ln "$mine" "$root/$1.lock" 2>/dev/null; do
        holder=$(tr -d '\0' <"$root/$1.lock" 2>/dev/null) || holder=
        case $holder in
        '' | *[!0-9]*) ;;
        *) [ -d "/proc/$holder" ] || kill -0 "$holder" 2>/dev/null || { rm -f "$root/$1.lock"; continue; } ;;
        esac
        waited=$((waited + 1))
        if [ "$waited" -gt 15 ]; then
            rm -f "$mine"
            die $locked "$root/$1.lock is held by ${holder:+process }${holder:-nobody that can be told}" \
                "wait for useradd, usermod or vipw to end; remove the file if none of them runs"
        fi
        sleep 1
    done
    locks="$locks $1"
    rm -f "$mine"
}

unlock() {
    for held in $locks; do rm -f "$root/$held.lock"; done
    locks=
}

sync_file() { sync "$1" 2>/dev/null || sync; }

# directories PATH: makes those that lack above it, and prints them, the outermost first.
directories() {
    above=$(dirname "$1")
    [ -d "$root/$above" ] || {
        directories "$above"
        say "$(dirname "$1")"
    }
}

# record ENTRY: puts it into the journal, whole or not at all, before the change is made. $serial is its name there.
record() {
    last=$(ls "$root/$journal" | sort -n | tail -n 1)
    serial=$((${last:-1000} + 1))
    rm -rf "$root/$journal/.new"
    cp -r "$1" "$root/$journal/.new"
    say "$run" >"$root/$journal/.new/run"
    directories "$(cat "$1/path")" >"$root/$journal/.new/made"
    for side in base new; do [ ! -f "$1/$side" ] || sync_file "$root/$journal/.new/$side"; done
    mv "$root/$journal/.new" "$root/$journal/$serial"
    sync_file "$root/$journal"
}

# write ENTRY: the change itself.
write() {
    path=$(cat "$1/path")
    target=$root/$path
    partial=$(dirname "$target")/.lodger-admin.$$
    if [ ! -f "$1/new" ]; then
        rm -f "$target"
        return
    fi
    if [ -f "$target" ]; then
        # For its mode and owner.
        cp -p "$target" "$partial"
        # shellcheck disable=SC2012 # POSIX has no stat
        [ "$(ls -dn "$partial" | awk '{ print $1, $3, $4 }')" = "$(ls -dn "$target" | awk '{ print $1, $3, $4 }')" ] || {
            rm -f "$partial"
            die $not_root "the owner of $target cannot be kept" "run this as root"
        }
    else
        mkdir -p "$(dirname "$target")"
        : >"$partial"
        chmod 644 "$partial"
    fi
    cat "$1/new" >"$partial"
    sync_file "$partial"
    mv -f "$partial" "$target"
    [ -z "$live" ] || ! command -v restorecon >/dev/null || restorecon "$target" || :
}

# What was killed has left.
sweep() {
    for place in etc etc/sysctl.d etc/apparmor.d "$(dirname "$profile_paths_path")" "$(dirname "$delegate_path")" "$linger_path"; do
        rm -f "$root/$place"/.lodger-admin.*
    done
    rm -rf "$root/$journal"/.new "$root/$journal"/.old.*
}

# apply: makes the changes, unless a file is not what it was when they were planned: $stale then.
apply() {
    stale=
    if [ -n "$live" ] && [ "$(id -u)" != 0 ]; then die $not_root "this takes root" "sudo lodger-admin …, or --dry-run to look"; fi
    for place in etc var/lib; do ours "$place/lodger-admin"; done
    ours "$journal/x"
    # It has copies of files that not everybody may read, and a lock that nobody else is to take.
    { mkdir -p "$root/var/lib" && (umask 077 && mkdir -p "$root/$journal"); } 2>/dev/null ||
        die $not_root "$root/$journal cannot be made" "run this as root, or as the owner of $root"
    [ -w "$root/etc" ] || die $not_root "$root/etc cannot be written to" "run this as root, or as the owner of $root"
    command -v flock >/dev/null || die $failed "flock is missing" "install util-linux"
    # The kernel gives it back, however we end. No command outlives us with it.
    exec 9>"$root/var/lib/lodger-admin/lock"
    flock 9
    sweep
    for path in etc/subuid etc/subgid; do
        ! grep -qx "$path" "$stage"/change.*/path || lock "$path"
    done
    for entry in "$stage"/change.*; do
        [ -f "$entry/later" ] || same "$entry/base" "$root/$(cat "$entry/path")" || stale=1
    done
    run=$(date -u +%Y-%m-%dT%H:%M:%SZ).$$
    for entry in "$stage"/change.*; do
        [ -z "$stale" ] || break
        if [ "$verb" = undo ]; then
            take_back "$entry"
        else
            record "$entry"
            write "$entry"
        fi
    done
    unlock
    exec 9>&-
}

# same FILE OTHER: also when neither is there.
same() {
    if [ -e "$1" ]; then
        [ -f "$2" ] && cmp -s "$1" "$2"
    else
        [ ! -e "$2" ]
    fi
}

take_back() {
    write "$1"
    past=$root/$journal/$(cat "$1/serial")
    sort -r "$past/made" | while read -r made; do rmdir "$root/$made" 2>/dev/null || :; done
    mv "$past" "$root/$journal/.old.$$"
    rm -rf "$root/$journal/.old.$$"
}
