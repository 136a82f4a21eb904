# shellcheck shell=sh
# --- what is installed: each plan_VERB plans changes ---

# data FILE INSTALLED: where a file to install is: in the source, or beside the installed parts.
data() {
    for place in "$here/../$1" "$parts/../$2"; do
        [ ! -f "$place" ] || { say "$place"; return; }
    done
    die $failed "${1##*/} is missing beside $parts" "install lodger-admin again (contrib/install)"
}

plan_delegate() {
    file=$(data systemd/user@.service.d/lodger-delegate.conf lodger-delegate.conf)
    change "$delegate_path" <"$file"
}

# What `loginctl enable-linger` makes.
plan_linger() {
    find_users
    while IFS=: read -r name _; do
        change "$linger_path/$name" </dev/null
    done <"$stage/users"
}

# A parser before AppArmor 4.0 knows no rule for user namespaces, and its kernel restricts none.
plan_apparmor() {
    if [ ! -e "$root/etc/apparmor.d/abi/4.0" ]; then
        say "no AppArmor profile is needed: there is no AppArmor 4.0 or later${root:+ in $root}" >>"$stage/notes"
        return
    fi
    if [ -n "$paths" ]; then
        look "$profile_paths_path"
        {
            [ ! -f "$seen" ] || cat "$seen"
            set -f
            for path in $paths; do
                grep -qxF "@{lodger} += $path" "$seen" 2>/dev/null || say "@{lodger} += $path"
            done
            set +f
        } >"$stage/whole"
        change "$profile_paths_path" <"$stage/whole"
    fi
    file=$(data contrib/apparmor/lodger apparmor/lodger)
    change "$profile_path" <"$file"
}

# The key, the least that is enough (two numbers: the range must hold that one), and what the kernel has by itself.
sysctls() {
    cat <<'END'
user.max_user_namespaces|10000|10000
user.max_mnt_namespaces|10000|10000
user.max_pid_namespaces|10000|10000
user.max_net_namespaces|10000|10000
user.max_ipc_namespaces|10000|10000
user.max_uts_namespaces|10000|10000
user.max_cgroup_namespaces|10000|10000
kernel.unprivileged_userns_clone|1|1
kernel.keys.maxkeys|2000|200
kernel.keys.maxbytes|200000|20000
net.ipv4.ping_group_range|0 2147483647|1 0
END
}

# setting KEY FILE…: the value that the last of them gives it.
setting() {
    key=$(say "$1" | sed 's/\./[.\/]/g')
    shift
    cat "$@" 2>/dev/null | sed -n "s/^[[:space:]]*-\{0,1\}$key[[:space:]]*=[[:space:]]*//p" | tail -n 1
}

# value_of KEY KERNELS: what holds: as the kernel says, or, in another root directory, as its files do.
value_of() {
    if [ -n "$live" ]; then
        tr '\t' ' ' 2>/dev/null <"/proc/sys/$(say "$1" | tr . /)" || say absent
        return
    fi
    value=$(setting "$1" "$root"/usr/lib/sysctl.d/*.conf "$root"/etc/sysctl.d/*.conf "$root/etc/sysctl.conf")
    say "${value:-$2}"
}

# enough VALUE LEAST
enough() {
    say "$1 / $2" | awk '
        $1 == "absent" { exit 0 }
        NF == 3 { exit !($1 + 0 >= $3 + 0) }
        { exit !($1 + 0 <= $4 + 0 && $2 + 0 >= $5 + 0) }'
}

plan_sysctl() {
    say "# What containers without root need of the kernel; by lodger-admin. The - is for kernels without the key." >"$stage/whole"
    : >"$stage/values"
    : >"$stage/was"
    sysctls >"$stage/sysctls"
    look "$sysctl_path"
    while IFS='|' read -r key least kernels; do
        value=$(value_of "$key" "$kernels")
        ours=$(setting "$key" "$seen")
        if ! enough "$value" "$least"; then
            say "$key=$least" >>"$stage/values"
            say "$key=$value" >>"$stage/was"
        elif [ -z "$ours" ]; then
            continue
        fi
        say "-$key = $least" >>"$stage/whole"
        overruled "$key" "$least"
    done <"$stage/sysctls"
    if [ "$(wc -l <"$stage/whole")" -eq 1 ]; then
        say "the kernel's limits are high enough" >>"$stage/notes"
        return
    fi
    change "$sysctl_path" <"$stage/whole"
    # What the file says may have been changed by hand at run time.
    if [ -z "$entry" ] && [ -n "$live" ] && [ -s "$stage/values" ]; then begin "$sysctl_path"; fi
    [ -z "$entry" ] || cp "$stage/values" "$stage/was" "$entry/"
}

# overruled KEY LEAST: a file that is read after ours has the last word at boot.
overruled() {
    for later in "$root"/etc/sysctl.d/*.conf "$root/etc/sysctl.conf"; do
        case $later in
        "$root/etc/sysctl.conf") ;;
        *) expr "${later##*/}" '>' "${sysctl_path##*/}" >/dev/null || continue ;;
        esac
        value=$(setting "$1" "$later")
        [ -z "$value" ] || enough "$value" "$2" || warn "$later sets $1 to $value at boot, after our file: take that line out"
    done
}

plan_all() {
    plan_subids
    plan_delegate
    plan_linger
    plan_apparmor
    plan_sysctl
}

# --- undo ---

# The entries of the last run, or of all, newest first; each must still have what we left, or what was there before.
plan_undo() {
    [ ! -d "$root/var/lib/lodger-admin" ] || [ -r "$root/$journal" ] || die $not_root "the journal is root's to read"
    # shellcheck disable=SC2012 # names of our own, which are numbers
    serials=$(ls "$root/$journal" 2>/dev/null | sort -rn) || serials=
    last=
    : >"$stage/undone"
    for serial in $serials; do
        past=$root/$journal/$serial
        run=$(cat "$past/run")
        [ -n "$everything" ] || [ "$run" = "${last:-$run}" ] || break
        last=$run
        path=$(cat "$past/path")
        ours "$path"
        # The newest entry of a file is about what is there now, the older ones about what the newer ones leave.
        now=$root/$path
        newer=$(awk -v path="$path" '$2 == path { entry = $1 } END { print entry }' "$stage/undone")
        [ -z "$newer" ] || now=$newer/new
        side=new
        same "$past/new" "$now" || side=base
        same "$past/$side" "$now" || die $changed_since "$root/$path was changed since, and stays" \
            "diff $past/new $root/$path shows how; put it back by hand, or remove $past to keep it as it is"
        count=$((count + 1))
        entry=$stage/change.$((1000 + count))
        mkdir "$entry"
        cp "$past/path" "$entry/"
        [ ! -f "$past/$side" ] || cp "$past/$side" "$entry/base"
        [ ! -f "$past/base" ] || cp "$past/base" "$entry/new"
        [ ! -f "$past/was" ] || cp "$past/was" "$entry/values"
        say "$serial" >"$entry/serial"
        # About a file that is not what is there now.
        [ -z "$newer" ] || : >"$entry/later"
        say "$entry $path" >>"$stage/undone"
    done
    [ "$count" -gt 0 ] || say "there is nothing to undo" >>"$stage/notes"
}

# --- status ---

status() {
    lacking=
    if [ -z "$names$groups" ]; then
        database passwd >"$stage/passwd"
        names=$(awk -F: 'NR == FNR { there[$1] = 1; name[$3] = $1; next }
            $1 in there { print $1; next }
            $1 in name { print name[$1] }' "$stage/passwd" "$root/etc/subuid" 2>/dev/null | sort -u) || names=
    fi
    find_users
    look_at_ranges
    while IFS=: read -r name uid; do
        line="$name: uids $(ranges uid "$name" "$uid"), gids $(ranges gid "$name" "$uid")"
        grep -qx "H $name" "$stage/taken" || { lacking=1; line="$line: less than $size"; }
        [ -e "$root/$linger_path/$name" ] && say "$line, lingers" || say "$line, does not linger"
    done <"$stage/users"
    overlaps >"$stage/overlaps"
    [ ! -s "$stage/overlaps" ] || { lacking=1; sed 's/^/overlap: /' "$stage/overlaps"; }
    told delegation plan_delegate
    told "AppArmor profile" plan_apparmor
    told sysctls plan_sysctl
    for serial in "$root/$journal"/[0-9]*; do
        [ ! -d "$serial" ] || say "journal: $(cat "$serial/run" "$serial/path" | tr '\n' ' ')"
    done
    [ -z "$lacking" ]
}

# ranges KIND NAME UID
ranges() {
    awk -v kind="$1" -v name="$2" -v uid="$3" '$1 == "I" && $4 == kind && ($5 == name || $5 == uid) {
        printf "%s%s-%s", sep, $2, $3; sep = " "; any = 1 } END { if (!any) printf "none" }' "$stage/taken"
}

# told WHAT PLAN: whether the plan would change anything.
told() {
    before=$count
    rm -f "$stage/notes"
    "$2"
    if [ "$count" -gt "$before" ]; then
        lacking=1
        say "$1: lacking, or not as they should be; lodger-admin ${2#plan_}"
    elif [ -f "$stage/notes" ]; then
        say "$1: $(cat "$stage/notes")"
    fi
}
