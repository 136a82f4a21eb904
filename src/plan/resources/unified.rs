//! `unified`: files of version 2 and what is written to them.

use super::{Out, controller};
use crate::bundle::pointer_token;
use crate::plan::{Note, Setting};

/// Files of the cgroup itself that limit something and do nothing else (cgroup-v2.rst, "Core Interface Files").
const CORE: [&str; 3] = [
    "cgroup.max.depth",
    "cgroup.max.descendants",
    "cgroup.pressure",
];

/// The longest name of a file, in bytes (NAME_MAX).
const NAME_LIMIT: usize = 255;

/// Takes `file` and `value` as they are, whatever they mean: what is unknown is written as well (config-linux.md, "Unified").
pub(super) fn convert(file: &str, value: &str, out: &mut Out<'_>) {
    let member = format!("unified/{}", pointer_token(file));
    if let Some(message) = wrong(file, value) {
        return out.problem(&member, message);
    }
    give_way(file, out);
    // The kernel reads one line of each write(2), as those files want that have a line for each device.
    for line in value.lines().map(str::trim).filter(|line| !line.is_empty()) {
        out.set(&member, file, line);
    }
}

fn wrong(file: &str, value: &str) -> Option<String> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    let named = file.find('.').is_some_and(|dot| dot > 0) && file.len() <= NAME_LIMIT;
    if !named || file.contains(odd) {
        return Some("is no file of a cgroup, whose name is CONTROLLER.PARAMETER".to_owned());
    }
    let core = controller(file).is_empty() && file.starts_with("cgroup.");
    if core && !CORE.contains(&file) {
        return Some(format!(
            "is not for a config to write: it steers the cgroup itself, which is the runtime's to do; only {} may be set",
            CORE.join(", ")
        ));
    }
    value.trim().is_empty().then(|| "has no value".to_owned())
}

/// What another member set in the same file is given up, unless the file has a line for each device.
fn give_way(file: &str, out: &mut Out<'_>) {
    if file.starts_with("io.") || file.starts_with("rdma.") {
        return;
    }
    let same = |setting: &mut Setting| setting.writes.iter().any(|write| write.file == file);
    let gone: Vec<_> = out.converted.settings.extract_if(.., same).collect();
    for setting in gone {
        out.converted.notes.push(Note::new(
            setting.property,
            format!("not used: unified has {file}, which is the same"),
            "leave out the one or the other",
        ));
    }
}
