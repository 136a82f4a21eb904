//! What is said of layers that are not on the disk as they are in the image.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::image::unpack::Report;
use crate::plan::Note;

/// How many names are in one note.
const SHOWN: usize = 10;

/// The notes of an image whose layers have these reports.
pub fn of_reports<'a>(reports: impl Iterator<Item = &'a Report>) -> Vec<Note> {
    let mut squashed = 0;
    let mut devices = 0;
    let mut names = Vec::new();
    let mut xattrs: BTreeMap<&str, u64> = BTreeMap::new();
    for report in reports {
        squashed += report.squashed;
        devices += report.devices.count();
        let room = SHOWN - names.len();
        names.extend(report.devices.first.iter().take(room).map(String::as_str));
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
    if devices > 0 {
        let more = devices.saturating_sub(names.len() as u64);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        notes.push(Note::new(
            "layers",
            format!(
                "{} a device in the image, and empty here: {}{more}",
                files(devices, "is", "are"),
                names.join(", ")
            ),
            "a container has the devices of its config (/linux/devices), whatever is in its image",
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
            "nothing, most often: only user.* and file capabilities mean something in a container",
        ));
    }
    notes
}

fn files(count: u64, one: &str, several: &str) -> String {
    match count {
        1 => format!("1 file {one}"),
        count => format!("{count} files {several}"),
    }
}
