//! What is said of layers that are not on the disk as they are in the image.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::image::Names;
use crate::image::flatten::Copied;
use crate::image::unpack::Report;
use crate::plan::Note;

/// How many names are in one note.
const SHOWN: usize = 10;

/// Names from several layers, as far as they are shown.
#[derive(Default)]
struct Shown<'a> {
    first: Vec<&'a str>,
    count: u64,
}

impl<'a> Shown<'a> {
    fn add(&mut self, names: &'a Names) {
        let room = SHOWN - self.first.len();
        self.first
            .extend(names.first.iter().take(room).map(String::as_str));
        self.count += names.count();
    }

    fn list(&self) -> String {
        let list = self.first.join(", ");
        match self.count.saturating_sub(self.first.len() as u64) {
            0 => list,
            more => format!("{list} and {more} more"),
        }
    }
}

/// The notes of an image whose layers have these reports.
pub fn of_reports<'a>(reports: impl Iterator<Item = &'a Report>) -> Vec<Note> {
    let mut squashed = 0;
    let mut devices = Shown::default();
    let mut sockets = Shown::default();
    let mut xattrs: BTreeMap<&str, u64> = BTreeMap::new();
    for report in reports {
        squashed += report.squashed;
        devices.add(&report.devices);
        sockets.add(&report.sockets);
        for (name, count) in &report.xattrs {
            *xattrs.entry(name).or_default() += count;
        }
    }
    let mut notes = Vec::new();
    if squashed > 0 {
        notes.push(Note::new(
            "layers",
            format!("{} another owner in the image, and yours here: the owner is kept in the extended attribute user.rootlesscontainers", files(squashed, "has", "have")),
            "to have all owners, ask the administrator for subordinate ids (/etc/subuid, /etc/subgid), and import it again without --squash-owners",
        ));
    }
    if devices.count > 0 {
        notes.push(Note::new(
            "layers",
            format!(
                "{} a device in the image, and empty here: {}",
                files(devices.count, "is", "are"),
                devices.list()
            ),
            "a container has the devices of its config (/linux/devices), whatever is in its image",
        ));
    }
    if sockets.count > 0 {
        notes.push(Note::new(
            "layers",
            format!(
                "{} a socket, and left out: {}",
                files(sockets.count, "is", "are"),
                sockets.list()
            ),
            "whoever listens makes it anew: nothing need be done",
        ));
    }
    if !xattrs.is_empty() {
        let shown = xattrs.iter().take(SHOWN);
        let shown: Vec<String> = shown
            .map(|(name, count)| format!("{name} ({count})"))
            .collect();
        let more = match xattrs.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        notes.push(Note::new(
            "layers",
            format!(
                "extended attributes were not taken, of so many files: {}{more}",
                shown.join(", ")
            ),
            "nothing, most often: what means something in a container is taken, user.*, file capabilities, and ACLs but for those of `tar --acls`, which are of names",
        ));
    }
    notes
}

/// What is said of a directory that was copied, as of a layer.
pub(super) fn of_copied(copied: Copied) -> Report {
    let without = copied.without_xattrs.count();
    let mut report = Report {
        entries: copied.files,
        bytes: copied.bytes,
        squashed: copied.squashed,
        devices: copied.devices,
        sockets: copied.sockets,
        ..Report::default()
    };
    if without > 0 {
        report.xattrs.insert("some".to_owned(), without);
    }
    report
}

fn files(count: u64, one: &str, several: &str) -> String {
    match count {
        1 => format!("1 file {one}"),
        count => format!("{count} files {several}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Names {
        Names {
            first: (0..count.min(100)).map(|n| format!("n{n}")).collect(),
            more: count.saturating_sub(100) as u64,
        }
    }

    #[test]
    fn what_layers_have_in_common_is_one_note() {
        assert_eq!(of_reports([].iter()), []);
        let one = Report {
            squashed: 1,
            devices: names(7),
            ..Report::default()
        };
        let mut two = Report {
            squashed: 2,
            devices: names(200),
            sockets: names(1),
            ..Report::default()
        };
        two.xattrs.insert("security.selinux".into(), 4);
        let notes = of_reports([one, two].iter());
        let reasons: Vec<&str> = notes.iter().map(|note| note.reason.as_str()).collect();
        assert!(
            reasons[0].starts_with("3 files have another owner"),
            "{reasons:?}"
        );
        assert!(
            reasons[1].starts_with("207 files are a device")
                && reasons[1].ends_with("n6, n0, n1, n2 and 197 more"),
            "{reasons:?}"
        );
        assert_eq!(reasons[2], "1 file is a socket, and left out: n0");
        assert!(reasons[3].ends_with("security.selinux (4)"), "{reasons:?}");
    }
}
