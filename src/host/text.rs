//! Parsers of the other files that the probe reads.

use super::MapLine;

/// The lines of a `uid_map` or `gid_map` (user_namespaces(7)); a line that does not parse is left out.
pub fn parse_id_map(text: &str) -> Vec<MapLine> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace().map(str::parse);
        let parsed = MapLine {
            inside: words.next()?.ok()?,
            outside: words.next()?.ok()?,
            count: words.next()?.ok()?,
        };
        words.next().is_none().then_some(parsed)
    };
    text.lines().filter_map(line).collect()
}

/// The name of the account `uid` in the text of passwd(5).
pub fn parse_passwd_name(text: &str, uid: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == uid).then(|| name.to_owned())
    })
}

/// The home directory of the account `uid` in the text of passwd(5).
pub(super) fn parse_passwd_home(text: &str, uid: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let number: u32 = fields.nth(2)?.parse().ok()?;
        let home = fields.nth(2).filter(|home| !home.is_empty())?;
        (number == uid).then(|| home.to_owned())
    })
}

/// The sources that nsswitch.conf(5) names for `database`, without the `[…]` actions.
pub fn parse_nsswitch<'a>(text: &'a str, database: &str) -> Vec<&'a str> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some((name, mut rest)) = line.split_once(':') else {
            continue;
        };
        if name.trim() != database {
            continue;
        }
        while let Some((before, after)) = rest.split_once('[') {
            sources.extend(before.split_ascii_whitespace());
            rest = after.split_once(']').map_or("", |(_, after)| after);
        }
        sources.extend(rest.split_ascii_whitespace());
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_maps() {
        let line = |inside, outside, count| MapLine {
            inside,
            outside,
            count,
        };
        let text = "         0       1000          1\n         1     100000      65536\n";
        let expected = [line(0, 1000, 1), line(1, 100_000, 65536)];
        assert_eq!(parse_id_map(text), expected);
        let initial = "         0          0 4294967295\n";
        assert_eq!(parse_id_map(initial), [line(0, 0, u32::MAX)]);
        assert_eq!(parse_id_map(""), []);
    }

    #[test]
    fn names_of_passwd() {
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\n+::::::\nlodger:x:1000:1000:,,,:/home/lodger:/bin/bash";
        assert_eq!(parse_passwd_name(text, 1000).as_deref(), Some("lodger"));
        assert_eq!(parse_passwd_name(text, 0).as_deref(), Some("root"));
        assert_eq!(parse_passwd_name(text, 100), None);
        let text = "a:x:7:7:A,B:/home/a:/bin/sh\nb:x:8:8\nc:x:9:9:::\n";
        assert_eq!(parse_passwd_home(text, 7).as_deref(), Some("/home/a"));
        assert_eq!(parse_passwd_home(text, 8), None);
        assert_eq!(parse_passwd_home(text, 9), None);
    }

    #[test]
    fn sources_of_nsswitch() {
        let text =
            "# subid: no\npasswd:         files systemd\nsubid: sss [NOTFOUND=return] files # x\n";
        assert_eq!(parse_nsswitch(text, "passwd"), ["files", "systemd"]);
        assert_eq!(parse_nsswitch(text, "subid"), ["sss", "files"]);
        assert!(parse_nsswitch(text, "group").is_empty());
    }
}
