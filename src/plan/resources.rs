//! `linux.resources` (config-linux.md, "Control groups") as files of cgroup v2 and as properties of a systemd unit.
//!
//! The specification speaks of version 1: what has an equal in version 2 is converted, as runc and crun do; what has none is
//! a problem. Where those take 0 for a value that was not given, it is no limit here either, and a note says so.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxHugepageLimit, LinuxNetwork, LinuxPids, LinuxRdma, LinuxResources};

use super::{FileWrite, Note, PropertyValue, Setting, UnitProperty};
use crate::bundle::{Problem, pointer_token};

mod block_io;
mod cpu;
mod memory;
mod unified;
mod units;

pub use units::properties;

/// Where `linux.resources` is in config.json.
pub const RESOURCES: &str = "/linux/resources";

/// How notes begin on a 0 that stands for a value that was not given.
pub const ZERO: &str = "0 is taken for no limit";

/// What `linux.resources` asks for, in the terms of version 2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Converted {
    /// What is to be written, in this order, to a cgroup that has been given nothing yet.
    pub settings: Vec<Setting>,
    /// The same, as far as systemd has properties for it: each name once.
    pub properties: Vec<UnitProperty>,
    /// What is done otherwise than asked.
    pub notes: Vec<Note>,
    /// What cannot be done.
    pub problems: Vec<Problem>,
}

/// Converts `resources` of a config of version `oci_version`, which are at the JSON pointer `prefix`.
pub fn convert(resources: &LinuxResources, oci_version: &str, prefix: &str) -> Converted {
    let mut out = Out::new(prefix);
    if let Some(memory) = resources.memory() {
        memory::convert(memory, &mut out);
    }
    if let Some(cpu) = resources.cpu() {
        cpu::convert(cpu, &mut out);
    }
    if let Some(pids) = resources.pids() {
        convert_pids(*pids, oci_version, &mut out);
    }
    if let Some(block_io) = resources.block_io() {
        block_io::convert(block_io, &mut out);
    }
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        convert_huge_pages(index, limit, &mut out);
    }
    if let Some(network) = resources.network() {
        refuse_network(network, &mut out);
    }
    let rdma: BTreeMap<_, _> = resources.rdma().iter().flatten().collect();
    for (device, limits) in rdma {
        convert_rdma(device, limits, &mut out);
    }
    let unified: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (file, value) in unified {
        unified::convert(file, value, &mut out);
    }
    let rules = resources.devices().as_deref().unwrap_or_default();
    if !rules.is_empty() {
        out.note(
            "devices",
            "device rules are not enforced: they need BPF in the initial user namespace",
            "none is needed: a container without root of the host has only the devices bound into it, with the caller's rights",
        );
    }
    out.finish()
}

/// What has been converted so far.
struct Out<'a> {
    prefix: &'a str,
    converted: Converted,
}

impl<'a> Out<'a> {
    fn new(prefix: &'a str) -> Self {
        Self {
            prefix,
            converted: Converted::default(),
        }
    }

    fn pointer(&self, member: &str) -> String {
        format!("{}/{member}", self.prefix)
    }

    /// Sets one file.
    fn set(&mut self, member: &str, file: &str, value: impl ToString) {
        self.set_first(member, &[(file, value.to_string())]);
    }

    /// Sets the first of the files that is there.
    fn set_first(&mut self, member: &str, files: &[(&str, String)]) {
        let controller = files.first().map(|(file, _)| controller(file));
        let writes = files.iter().map(|(file, value)| FileWrite {
            file: (*file).to_owned(),
            value: value.clone(),
        });
        self.converted.settings.push(Setting {
            property: self.pointer(member),
            controller: controller.unwrap_or_default().to_owned(),
            writes: writes.collect(),
        });
    }

    fn note(&mut self, member: &str, reason: impl AsRef<str>, remedy: &str) {
        let note = Note::new(self.pointer(member), reason, remedy);
        self.converted.notes.push(note);
    }

    /// 0 where it stands for a value that was not given.
    fn note_zero(&mut self, member: &str, as_whom: &str) {
        self.note(member, format!("{ZERO}, {as_whom}"), "none is needed");
    }

    fn problem(&mut self, member: &str, message: impl AsRef<str>) {
        let problem = Problem::new(self.pointer(member), message);
        self.converted.problems.push(problem);
    }

    /// Drops a weight that an idle cgroup cannot have, and adds the units' properties.
    fn finish(mut self) -> Converted {
        let settings = &mut self.converted.settings;
        let value = |file: &str, settings: &[Setting]| {
            let writes = settings.iter().flat_map(|setting| &setting.writes);
            let mut found = writes.filter(|write| write.file == file);
            let last = found.next_back();
            last.map(|write| write.value.trim().to_owned())
        };
        if value("cpu.idle", settings).as_deref() == Some("1") {
            let weights =
                settings.extract_if(.., |s| s.writes.iter().any(|w| w.file == "cpu.weight"));
            for weight in weights {
                self.converted.notes.push(Note::new(
                    weight.property,
                    "not used: what is idle (cpu/idle) runs when nothing else does, whatever its share",
                    "leave out the one or the other",
                ));
            }
        }
        self.converted.properties = units::properties(&self.converted.settings);
        self.converted
    }
}

/// The controller that has `file`: its name's first part (cgroup-v2.rst, "Conventions"). The core's own files and those of
/// pressure stall information need none.
fn controller(file: &str) -> &str {
    let controller = file
        .split_once('.')
        .map_or("", |(controller, _)| controller);
    if controller == "cgroup" || file.ends_with(".pressure") {
        return "";
    }
    controller
}

/// -1 or the number itself.
fn or_max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

impl Setting {
    /// Whether this is what every new cgroup has: nothing is lost where it cannot be written.
    pub fn is_usual(&self) -> bool {
        // A soft limit of version 1 is the usual one when there is none. A protection of version 2 is bounded by the parent's.
        let no_reservation = self.property.ends_with("/memory/reservation");
        self.writes.iter().all(|write| {
            let value = write.value.trim();
            match write.file.as_str() {
                "memory.low" if no_reservation => ["0", "max"].contains(&value),
                "memory.low" | "memory.min" | "memory.oom.group" => value == "0",
                "cpu.idle" | "cpu.max.burst" => value == "0",
                "cpu.weight" => value == cpu::USUAL_WEIGHT.to_string(),
                "cpu.max" => value.split_whitespace().next() == Some("max"),
                "memory.max" | "memory.high" | "memory.swap.max" | "memory.swap.high"
                | "memory.zswap.max" | "pids.max" => value == "max",
                "io.max" | "rdma.max" => {
                    let mut limits = value.split_whitespace().skip(1);
                    limits.all(|limit| limit.ends_with("=max"))
                }
                file if file.starts_with("hugetlb.") => value == "max",
                _ => false,
            }
        })
    }
}

/// `pids`: -1 is no limit. 0 was none either, up to version 1.2 of the specification.
fn convert_pids(pids: LinuxPids, oci_version: &str, out: &mut Out<'_>) {
    match pids.limit() {
        0 if !zero_is_a_limit(oci_version) => out.note_zero(
            "pids/limit",
            "as it was before version 1.3 of the specification",
        ),
        limit if limit < -1 => out.problem(
            "pids/limit",
            format!("{limit} is no number of processes, and not -1, which is for no limit"),
        ),
        limit => out.set("pids/limit", "pids.max", or_max(limit)),
    }
}

fn zero_is_a_limit(version: &str) -> bool {
    !["1.0.", "1.1.", "1.2."]
        .iter()
        .any(|old| version.starts_with(old))
}

/// `hugepageLimits`: reservations are limited, or else what is in use (config-linux.md, "Huge page limits").
fn convert_huge_pages(index: usize, limit: &LinuxHugepageLimit, out: &mut Out<'_>) {
    let member = |name: &str| format!("hugepageLimits/{index}/{name}");
    let size = limit.page_size();
    let digits = ["KB", "MB", "GB"]
        .iter()
        .find_map(|unit| size.strip_suffix(unit));
    let number = digits.filter(|digits| {
        digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0')
    });
    if number.is_none_or(str::is_empty) {
        let message = format!("{size:?} is no size of huge pages like \"2MB\" or \"1GB\"");
        return out.problem(&member("pageSize"), message);
    }
    let bytes = limit.limit();
    if bytes < 0 {
        return out.problem(&member("limit"), format!("{bytes} is no number of bytes"));
    }
    let reserved = format!("hugetlb.{size}.rsvd.max");
    let used = format!("hugetlb.{size}.max");
    let files = [(&*reserved, bytes.to_string()), (&*used, bytes.to_string())];
    out.set_first(&member("limit"), &files);
}

/// `network`: net_cls and net_prio have no successor among the files of version 2.
fn refuse_network(network: &LinuxNetwork, out: &mut Out<'_>) {
    let why = "version 2 of cgroups has nothing like it: leave it out, and mark packets by their cgroup in nftables";
    if network.class_id().is_some_and(|class| class > 0) {
        out.problem("network/classID", why);
    }
    if network.priorities().iter().flatten().next().is_some() {
        out.problem("network/priorities", why);
    }
}

/// `rdma`: one line of rdma.max for each device.
fn convert_rdma(device: &str, limits: &LinuxRdma, out: &mut Out<'_>) {
    let member = format!("rdma/{}", pointer_token(device));
    if device.is_empty() || device.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return out.problem(&member, "is no name of a device");
    }
    let limits = [
        ("hca_handle", limits.hca_handles()),
        ("hca_object", limits.hca_objects()),
    ];
    let given = limits
        .iter()
        .filter_map(|(key, value)| Some(format!(" {key}={}", (*value)?)));
    let given: String = given.collect();
    if given.is_empty() {
        return out.problem(&member, "needs hcaHandles, hcaObjects or both");
    }
    out.set(&member, "rdma.max", format!("{device}{given}"));
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
