# Gives ranges of `size` ids from `min` to `max`. Reads what taken.awk prints: all `I` by their beginnings, then the `N` that name a
# START, then the others. Prints `A KIND NAME START` for each range, or `F NAME` and ends where there is no room.
BEGIN { size += 0; min += 0; max += 0; at = 0; cursor = min }

function put(where, from_id, to_id, kind) { from[where] = from_id; to[where] = to_id; of[where] = kind }

# Among the others, by its beginning.
function insert(first, kind,   i) {
    for (i = taken++; i > 0 && from[i] > first; i--) put(i + 1, from[i], to[i], of[i])
    put(i + 1, first, first + size - 1, kind)
    if (i + 1 > at) return
    at++
    if (first + size > cursor) cursor = first + size
}

function clear(kind, first,   i) {
    if (first < min || first + size - 1 > max) return 0
    for (i = 1; i <= taken; i++) if (of[i] == kind && from[i] < first + size && to[i] >= first) return 0
    return 1
}

# The next ids that are free as uids and as gids: one number is easier to keep in mind.
function gap() {
    for (; at < taken && from[at + 1] < cursor + size; at++) if (to[at + 1] >= cursor) cursor = to[at + 1] + 1
    cursor += size
    return cursor - size
}

$1 == "I" { put(++taken, $2 + 0, $3 + 0, $4) }

$1 == "N" && $4 != "" && clear($3, $4 + 0) {
    printf "A %s %s %.0f\n", $3, $2, $4
    insert($4 + 0, $3)
    next
}

$1 == "N" {
    first = gap()
    if (first + size - 1 > max) {
        print "F", $2
        exit
    }
    if ($3 != "gid") printf "A uid %s %.0f\n", $2, first
    if ($3 != "uid") printf "A gid %s %.0f\n", $2, first
}
