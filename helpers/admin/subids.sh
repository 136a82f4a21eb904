# shellcheck shell=sh
# --- subordinate ids ---

# database passwd|group: with those of directories where this is the running system.
database() {
    if [ -n "$live" ] && command -v getent >/dev/null; then getent "$1" || :; fi
    [ ! -f "$root/etc/$1" ] || cat "$root/etc/$1"
}

# Writes NAME:UID of everybody who is meant to $stage/users.
find_users() {
    [ ! -f "$stage/users" ] || return 0
    : >"$stage/found"
    database passwd >"$stage/passwd"
    database group >"$stage/group"
    for name in $names; do
        # Directories may not list whom they know.
        [ -z "$live" ] || ! command -v getent >/dev/null || getent passwd "$name" >>"$stage/passwd" || :
        awk -F: -v name="$name" '$1 == name { print $1 ":" $3; exit }' "$stage/passwd" >"$stage/one"
        [ -s "$stage/one" ] || die $nobody "there is no user $name${root:+ in $root}" "useradd $name"
        cat "$stage/one" >>"$stage/found"
    done
    for group in $groups; do
        [ -z "$live" ] || ! command -v getent >/dev/null || getent group "$group" >>"$stage/group" || :
        awk -F: -v group="$group" '$1 == group { print $3 ":" $4; exit }' "$stage/group" >"$stage/one"
        [ -s "$stage/one" ] || die $nobody "there is no group $group${root:+ in $root}"
        awk -F: 'NR == FNR { gid = $1; n = split($2, list, ","); for (i = 1; i <= n; i++) member[list[i]] = 1; next }
            $4 == gid || $1 in member { print $1 ":" $3 }' "$stage/one" "$stage/passwd" >>"$stage/found"
    done
    # Those that a directory lists are file names and words of commands too.
    awk -F: '$1 !~ /^[A-Za-z0-9_][A-Za-z0-9._@+-]*$/ { print "lodger-admin: a name with other characters than letters, digits and ._@+- is left out" >"/dev/stderr"; next }
        $2 == 0 { print "lodger-admin: " $1 " has all ids already, and is left out" >"/dev/stderr"; next } !seen[$1]++' \
        "$stage/found" >"$stage/users"
}

login_defs() {
    value=$(awk -v key="$1" '$1 == key { value = $2 } END { print value }' "$root/etc/login.defs" 2>/dev/null) || value=
    [ -n "$value" ] || value=$2
    case $value in *[!0-9]*) die $failed "$1 in $root/etc/login.defs is no decimal number: $value" "--min and --max" ;; esac
    say "$value"
}

# What there is, as taken.awk reads it.
inventory() {
    sed 's/^/U:/' "$stage/users"
    for kind in uid gid; do
        look "etc/sub$kind"
        [ ! -f "$seen" ] || grep -v -e '^#' -e '^[[:space:]]*$' "$seen" | sed "s/^/S:$kind:/"
    done
    sed 's/^/P:uid:/' "$stage/passwd"
    sed 's/^/P:gid:/' "$stage/group"
}

look_at_ranges() {
    inventory >"$stage/inventory"
    awk -v size="$size" -f "$parts/taken.awk" "$stage/inventory" >"$stage/taken"
}

# Where ranges may be: $least to $most, for uids and gids alike.
bounds() {
    least=$min most=$max
    for kind in UID GID; do
        value=$(login_defs "SUB_${kind}_MIN" 100000)
        [ -n "$min" ] || [ "$value" -le "${least:-0}" ] || least=$value
        value=$(login_defs "SUB_${kind}_MAX" 600100000)
        [ -n "$max" ] || [ "$value" -ge "${most:-4294967294}" ] || most=$value
    done
    # The last id is no id.
    [ "$most" -le 4294967294 ] || most=4294967294
}

# Who lacks ranges gets lines at the end of the files.
plan_subids() {
    if source=$(sed -n 's/^[[:space:]]*subid:[[:space:]]*//p' "$root/etc/nsswitch.conf" 2>/dev/null) && [ -n "$source" ]; then
        case $source in
        files*) ;;
        *) die $failed "ranges come from '$source' here, as $root/etc/nsswitch.conf says, and not from files" \
            "give them there, or take its line subid: out" ;;
        esac
    fi
    find_users
    bounds
    look_at_ranges
    grep '^I' "$stage/taken" | sort -k 2,2n >"$stage/sorted" || :
    awk '$1 == "N" && NF == 4' "$stage/taken" >>"$stage/sorted"
    awk '$1 == "N" && NF == 3' "$stage/taken" >>"$stage/sorted"
    awk -v size="$size" -v min="$least" -v max="$most" -f "$parts/give.awk" "$stage/sorted" >"$stage/given"
    full=$(sed -n 's/^F //p' "$stage/given")
    [ -z "$full" ] || die $no_room "no $size ids in a row are left from $least to $most for $full" \
        "raise SUB_UID_MAX and SUB_GID_MAX in /etc/login.defs, give another part with --min and --max, or a smaller --size"
    sed -n 's/^H \(.*\)/\1 has subordinate ids enough/p' "$stage/taken" >>"$stage/notes"
    for kind in uid gid; do
        awk -v kind="$kind" -v size="$size" '$1 == "A" && $2 == kind { print $3 ":" $4 ":" size }' "$stage/given" >"$stage/lines"
        [ -s "$stage/lines" ] || continue
        look "etc/sub$kind"
        # The last line may lack its end.
        { [ ! -f "$seen" ] || awk 1 "$seen"; cat "$stage/lines"; } >"$stage/whole"
        change "etc/sub$kind" <"$stage/whole"
    done
}

# Ranges of different owners that meet.
overlaps() {
    for kind in uid gid; do
        awk -v kind="$kind" '$1 == "I" && $4 == kind' "$stage/taken" | sort -k 2,2n | awk -v kind="$kind" '
            function whose(name) { return name == "" ? "the id of a user or group" : "of " name }
            NR > 1 && $2 <= last && $5 != owner {
                printf "/etc/sub%s: %s: %s is also %s\n", kind, $2, whose($5), whose(owner)
            }
            $3 >= last { last = $3; owner = $5 }' || :
    done
}
