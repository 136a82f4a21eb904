# What is there: U:NAME:UID a user who is meant; S:uid|gid:OWNER:START:COUNT a range; P:uid|gid:NAME:x:ID a real id. `size` is what each
# user should have.
#
# Prints `I START END KIND OWNER` for each range and id that is taken; for each user `H NAME` who has enough, or `N NAME
# uid|gid|both [START]` who lacks it, START being that of her range of the other kind.
BEGIN { FS = ":"; size += 0 }

function no_number(text) { return text !~ /^[0-9]+$/ || length(text) > 10 }

$1 == "U" { who[++users] = $2; uid[$2] = $3 }

$1 == "S" {
    if (NF != 5 || $3 == "" || no_number($4) || no_number($5) || $5 + 0 == 0 || $4 + $5 > 4294967296) {
        printf "lodger-admin: warning: no range, and left as it is, in /etc/sub%s: %s\n", $2, substr($0, 7) >"/dev/stderr"
        next
    }
    printf "I %.0f %.0f %s %s\n", $4, $4 + $5 - 1, $2, $3
    sum[$2, $3] += $5
    if ($5 + 0 >= size) start[$2, $3] = $4
}

$1 == "P" && !no_number($5) { printf "I %.0f %.0f %s\n", $5, $5, $2 }

function enough(kind, name) { return sum[kind, name] + (uid[name] == name ? 0 : sum[kind, uid[name]]) >= size }

function begins(kind, name) { return (kind, name) in start ? start[kind, name] : start[kind, uid[name]] }

END {
    for (i = 1; i <= users; i++) {
        name = who[i]
        uids = enough("uid", name)
        gids = enough("gid", name)
        if (uids && gids) print "H", name
        else if (uids) print "N", name, "gid", begins("uid", name)
        else if (gids) print "N", name, "uid", begins("gid", name)
        else print "N", name, "both"
    }
}
