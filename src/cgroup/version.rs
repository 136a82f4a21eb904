//! Which version of systemd answers. What each has is in `plan` (`UnitProperty::since`).

/// The version in the manager's property `Version`; `None`: it does not begin with one.
///
/// Debian has `252.38-1~deb12u1`, Fedora `v257.2-1.fc41`, a release candidate is `256~rc3`.
pub fn parse_version(text: &str) -> Option<u32> {
    let text = text.trim();
    let text = text.strip_prefix("systemd ").unwrap_or(text);
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..end].parse().ok().filter(|version| *version > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let cases = [
            ("252.38-1~deb12u1", Some(252)),
            ("v257", Some(257)),
            ("v257.2-1.fc41", Some(257)),
            ("256~rc3", Some(256)),
            ("257~rc1-2", Some(257)),
            ("255 (255.4-1ubuntu8)", Some(255)),
            ("systemd 249", Some(249)),
            (" 253\n", Some(253)),
            ("", None),
            ("v", None),
            ("main-g1234", None),
            ("0", None),
            ("99999999999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_version(text), expected, "{text:?}");
        }
    }
}
