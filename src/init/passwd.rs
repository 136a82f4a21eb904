//! The home directory, from the container's own passwd file, which is the image's and not to be trusted.

use std::path::Path;

use super::beneath::RootDir;
use crate::sys;

const PASSWD: &str = "/etc/passwd";
/// More than this is no passwd file (CVE-2026-47262: unbounded reads).
const LIMIT: usize = 1 << 20;

/// The home directory of `uid` in the container; `/` where its passwd file does not say.
pub(super) fn home(root: &RootDir, uid: u32) -> String {
    let text = root
        .open_to_read(Path::new(PASSWD))
        .and_then(|fd| sys::path::read_limited(fd, Path::new(PASSWD), LIMIT));
    text.ok()
        .and_then(|text| home_in(&String::from_utf8_lossy(&text), uid))
        .unwrap_or_else(|| "/".to_owned())
}

/// The home directory of the first line with this uid (passwd(5)).
fn home_in(text: &str, uid: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found: u32 = fields.nth(2)?.parse().ok()?;
        let home = fields.nth(2)?;
        let usable = found == uid && home.starts_with('/') && !home.contains('\0');
        usable.then(|| home.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_with_the_uid_counts() {
        let text = "root:x:0:0:root:/root:/bin/sh\n1000:x:0:0::/evil:\nsync:x:4:65534::/bin:/bin/sync\na:x:1000:1000:A,,,:/home/a:\n";
        assert_eq!(home_in(text, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(text, 1000).as_deref(), Some("/home/a"));
        assert_eq!(home_in(text, 4).as_deref(), Some("/bin"));
        assert_eq!(home_in(text, 7), None);
    }

    #[test]
    fn broken_lines_are_passed_over() {
        for text in [
            "",
            ":::::",
            "a:x",
            "a:x:-1:0::/h:",
            "a:x:4294967296:0::/h:",
            "a:x:1:1::relative:",
        ] {
            assert_eq!(home_in(text, 1), None, "{text:?}");
        }
    }
}
