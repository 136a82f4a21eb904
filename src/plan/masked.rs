//! procfs and sysfs on a host that shows none whole, as in a container: the kernel makes no new one there for a user namespace
//! (`mount_too_revealing` of the kernel). What stands in is chosen by the caller (`--proc`), and always said.

use std::path::PathBuf;

use super::mounts::Planner;
use super::{Attribute, MountSource, Note, ProcMode};
use crate::host::{Revealing, listed};
use crate::sys::defence::{Defence, is_on};

impl Planner<'_> {
    /// The procfs of a pid namespace that is the container's own.
    pub(super) fn own_proc(&mut self) -> Option<MountSource> {
        let reading = self.context.ids.facts.details.proc.as_ref();
        let refused = self.refused(reading);
        let why = match (self.context.proc, &refused) {
            (ProcMode::Bind | ProcMode::Auto, Some(why)) => why.as_str(),
            (ProcMode::Bind, None) => "--proc=bind asks for it",
            (ProcMode::New | ProcMode::Auto | ProcMode::None, _) => {
                return Some(self.new_filesystem("proc"));
            }
        };
        if self.shares_user_namespace() {
            if self.context.proc == ProcMode::Auto {
                // What covers the host's may not be locked there: the kernel knows.
                return Some(self.new_filesystem("proc"));
            }
            self.problem(
                "/type",
                "the host's /proc cannot be bound (--proc=bind): the container has the user namespace of its caller, whose \
                 processes it could enter by their /proc/PID/root; add {\"type\": \"user\"} to /linux/namespaces",
            );
            return None;
        }
        let code = reading.and_then(|reading| reading.code("proc"));
        let code = code.filter(|_| refused.is_some());
        let note = Note::new(
            format!("{}/type", self.property),
            format!(
                "the host's /proc is bound, with what is mounted over it: {why}. The processes around the container, their names \
                 and arguments are seen in it, and all by numbers that are not those of the container's pid namespace: \
                 /proc/self and /dev/fd are right, ps(1) and /proc/PID are not"
            ),
            match (&refused, reading) {
                (Some(_), Some(Revealing::Readonly)) => "have /proc mounted writable",
                (Some(_), _) => UNMASK,
                (None, _) => "leave out --proc=bind",
            },
        );
        self.notes.push(match code {
            Some(code) => note.code(code),
            None => note,
        });
        Some(self.bound("/proc"))
    }

    /// Whether the container's processes are in their caller's user namespace: then nothing but the pid namespace keeps
    /// them from those of hers (ptrace(2), "Ptrace access mode checking").
    fn shares_user_namespace(&self) -> bool {
        self.context.ids.maps.is_none() && is_on(Defence::RefuseProcfs)
    }

    /// The sysfs of a network namespace that is the container's own.
    pub(super) fn own_sys(&mut self) -> MountSource {
        let reading = self.context.ids.facts.details.sys.as_ref();
        let bind = self.context.proc != ProcMode::New;
        let code = reading.and_then(|reading| reading.code("sysfs"));
        let (Some(why), Some(code), true) = (self.refused(reading), code, bind) else {
            return self.new_filesystem("sysfs");
        };
        self.options.recursive.set(Attribute::Ro);
        let remedy = match reading {
            Some(Revealing::Readonly) => "add \"ro\" to the options of the mount",
            _ => UNMASK,
        };
        let note = sys_note(&self.property, &why, remedy);
        self.notes.push(note.code(code));
        self.bound("/sys")
    }

    /// Leaves a procfs out (`--proc=none`).
    pub(super) fn leave_proc_out(&mut self) {
        self.options = super::options::Options::default();
        self.note(
            "/type",
            "left out: --proc=none asks for it. /proc is what the root filesystem has there, and what programs look up in it \
             (/proc/self, /dev/fd, /dev/stdin) is missing",
            "--proc=auto gives one wherever one can be had",
        );
    }

    fn bound(&mut self, place: &str) -> MountSource {
        self.drop_filesystem_options(place);
        MountSource::Bind {
            source: PathBuf::from(place),
            recursive: true,
        }
    }

    /// Why the kernel would refuse a new filesystem with the options of this mount, if it would.
    fn refused(&self, reading: Option<&Revealing>) -> Option<String> {
        match reading? {
            Revealing::Covered(places) => Some(format!(
                "the kernel makes no new one where the host's is covered by mounts on {}",
                listed(places)
            )),
            Revealing::Readonly if !self.options.attributes.set.contains(&Attribute::Ro) => Some(
                "the kernel makes no new one that can be written to where the host's is read-only"
                    .to_owned(),
            ),
            // Where there is none, none can be bound.
            Revealing::Readonly | Revealing::NoneVisible | Revealing::Nothing => None,
        }
    }
}

/// What is said of a sysfs that stands in for one that the kernel refuses: `property` is the mount's, `why` a clause.
pub(crate) fn sys_note(property: &str, why: &str, remedy: &str) -> Note {
    Note::new(
        format!("{property}/type"),
        format!(
            "the host's /sys is bound, read-only, with what is mounted over it: {why}. It shows the host's network devices, \
             and not the container's"
        ),
        remedy,
    )
}

/// What is said of an empty directory that stands in for a sysfs where the host has none.
pub(crate) fn no_sys_note(property: &str) -> Note {
    Note::new(
        format!("{property}/type"),
        "an empty directory stands in for a new sysfs: the kernel makes one only where there is one already, and on /sys of this \
         host there is no sysfs, nor elsewhere",
        "have sysfs mounted on /sys",
    )
    .code("LDG-SYS-NONE")
}

/// Who can have a whole one seen.
pub(crate) const UNMASK: &str = "have the container around this one started without masks (docker: --security-opt \
                      systempaths=unconfined; podman: --security-opt unmask=ALL)";
