//! Who else has subordinate ids, and where the caller's account comes from.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::text;
use crate::host::{HostFacts, parse_nsswitch, parse_passwd_name};
use crate::sys;

/// What a range has that useradd(8) gives (SUB_UID_COUNT of login.defs(5)), and where it begins to look (SUB_UID_MIN).
const COUNT: u64 = 65_536;
const FIRST: u64 = 100_000;
/// Where it stops (SUB_UID_MAX).
const LAST: u64 = 600_100_000;

/// What is around the caller's own ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubIds {
    /// The first id of 65536 that nobody has in /etc/subuid and /etc/subgid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
    /// Whether the account is in /etc/passwd; `None`: there is no account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_local: Option<bool>,
    /// The sources of `subid` in nsswitch.conf(5).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
}

impl SubIds {
    /// Reads /etc/subuid, /etc/subgid, /etc/passwd and /etc/nsswitch.conf.
    pub(super) fn read(facts: &HostFacts) -> Self {
        // What could not be read whole has ranges that are not known of.
        let all = ["/etc/subuid", "/etc/subgid"].map(whole);
        let all = all.into_iter().collect::<Option<Vec<String>>>();
        let passwd = whole("/etc/passwd");
        let local = passwd.map(|passwd| parse_passwd_name(&passwd, facts.uid).is_some());
        let nsswitch = text::read("/etc/nsswitch.conf").unwrap_or_default();
        let sources = parse_nsswitch(&nsswitch, "subid");
        Self {
            free: all.and_then(|all| free(&all.join("\n"))),
            is_local: local.filter(|_| facts.user_name.is_some()),
            sources: sources.into_iter().map(str::to_owned).collect(),
        }
    }
}

/// The text of one of the account files, nothing where there is none; `None`: it cannot be read, or not to its end.
fn whole(path: &str) -> Option<String> {
    const LIMIT: usize = 16 << 20;
    match sys::path::read_regular(Path::new(path), LIMIT) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.is(libc::ENOENT) => Some(String::new()),
        Err(_) => None,
    }
}

/// The first range that overlaps none of `text`, which has lines of subuid(5).
fn free(text: &str) -> Option<u64> {
    let mut taken: Vec<(u64, u64)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split(':').skip(1);
            let start: u64 = words.next()?.parse().ok()?;
            let count: u64 = words.next()?.parse().ok()?;
            // No id is larger; a number that is, is no reason to calculate with it.
            Some((start.min(1 << 32), start.saturating_add(count).min(1 << 32)))
        })
        .collect();
    taken.sort_unstable();
    let mut first = FIRST;
    for (start, end) in taken {
        if start < first + COUNT && end > first {
            // On the same grid as before, so that ranges do not leave gaps of odd sizes.
            first += (end - first).div_ceil(COUNT) * COUNT;
        }
    }
    (first + COUNT <= LAST).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_many_accounts_is_read_whole_or_counts_as_unknown() {
        use std::io::Write;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for number in 0..4000u32 {
            writeln!(file, "user{number:04}:{}:65536", 100_000 + number * 65_536).unwrap();
        }
        let path = file.path().to_str().unwrap();
        let text = whole(path).unwrap();
        assert!(text.len() > 64 << 10);
        assert_eq!(free(&text), Some(100_000 + 4000 * 65_536));
        assert_eq!(whole("/not/there").as_deref(), Some(""));
        assert_eq!(whole("/proc"), None);
    }

    #[test]
    fn a_range_that_nobody_has() {
        let table = [
            ("", 100_000),
            ("a:100000:65536\n", 165_536),
            ("a:100000:65536\nb:165536:65536\n", 231_072),
            ("b:165536:65536\na:100000:1\n", 231_072),
            ("a:1000:5\nb:x:y\nc\nd:99999:1\n", 100_000),
            ("a:1000:18446744073709551615\n", 0),
            ("a:165535:1\n", 165_536),
        ];
        for (text, expected) in table {
            assert_eq!(free(text).unwrap_or(0), expected, "{text:?}");
        }
    }
}
