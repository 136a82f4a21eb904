//! Controllers and limits.

use super::fs::{Dir, join};
use super::record::{Enforced, EnforcedBy};
use crate::doctor::Step;
use crate::error::{Error, Result};
use crate::plan::{Note, Setting};
use crate::sys;

impl Dir {
    /// Lets the cgroups in this one have `controllers` (cgroup.subtree_control).
    pub fn enable(&self, controllers: &[&str]) -> Result<()> {
        if controllers.is_empty() {
            return Ok(());
        }
        let enabled = self.words("cgroup.subtree_control")?;
        let missing = not_in(controllers, &enabled);
        if missing.is_empty() {
            return Ok(());
        }
        let lacking = not_in(&missing, &self.controllers()?);
        if let Some(controller) = lacking.first() {
            return Err(self.lacks(controller));
        }
        let all: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
        if self.write("cgroup.subtree_control", &all.join(" ")).is_ok() {
            return Ok(());
        }
        // One by one, to tell which it is.
        for controller in missing {
            self.write("cgroup.subtree_control", &format!("+{controller}"))
                .map_err(|cause| self.not_enabled(controller, cause))?;
        }
        Ok(())
    }

    /// Whether the cgroups in this one have all `controllers` already.
    pub fn shares(&self, controllers: &[&str]) -> Result<bool> {
        if controllers.is_empty() {
            return Ok(true);
        }
        Ok(not_in(controllers, &self.words("cgroup.subtree_control")?).is_empty())
    }

    fn lacks(&self, controller: &str) -> Error {
        Error::new(format!(
            "the cgroup controller {controller:?} is not available"
        ))
        .because(format!(
            "cgroup.controllers of {} does not have it",
            self.path()
        ))
        .hint(match self.path().rsplit_once('/') {
            Some((above, name)) if !name.is_empty() => format!(
                "{} must enable it in its cgroup.subtree_control: whoever delegates the cgroup says which controllers \
                 it gets (Delegate= of systemd.resource-control(5))",
                if above.is_empty() { "/" } else { above }
            ),
            _ => "this kernel has no such controller, or version 1 has taken it".to_owned(),
        })
    }

    fn not_enabled(&self, controller: &str, cause: sys::Error) -> Error {
        let hint = match cause.errno {
            libc::EBUSY => Some(
                "processes are in that cgroup itself: it cannot share out what they use (cgroups(7), \"no internal processes\")",
            ),
            libc::EOPNOTSUPP => {
                Some("that cgroup is for threads (cgroup.type), where this controller cannot be")
            }
            libc::EACCES | libc::EPERM => Some("that cgroup was not delegated to you"),
            libc::ENOENT => Some("the controller is gone from that cgroup meanwhile"),
            _ => None,
        };
        let error = Error::new(format!(
            "cannot enable the cgroup controller {controller:?} in {}",
            self.path()
        ))
        .because_of(&cause)
        .step(Step::Cgroup);
        hint.into_iter().fold(error, Error::hint)
    }

    /// Writes what `settings` say, in this order, each to the first of its files that is there. Returns what holds now. Where a
    /// limit is not `required`, one that cannot be set is a note.
    pub fn apply(
        &self,
        settings: &[Setting],
        required: bool,
        notes: &mut Vec<Note>,
    ) -> Result<Vec<Enforced>> {
        let mut enforced = Vec::new();
        for setting in settings {
            match self.set(setting) {
                Ok(limit) => enforced.push(limit),
                Err(error) if required => return Err(error),
                Err(error) => notes.push(Note::new(
                    &setting.property,
                    format!("not kept: {}", error.message()),
                    error.hints().unwrap_or_default(),
                )),
            }
        }
        Ok(enforced)
    }

    /// As [`Dir::apply`], for one.
    pub fn set(&self, setting: &Setting) -> Result<Enforced> {
        let mut absent = None;
        for write in &setting.writes {
            match self.write(&write.file, &write.value) {
                Ok(()) => {
                    return Ok(Enforced {
                        property: setting.property.clone(),
                        file: write.file.clone(),
                        value: write.value.clone(),
                        by: EnforcedBy::Cgroupfs,
                    });
                }
                Err(cause) if cause.call == "openat" && cause.is(libc::ENOENT) => {
                    absent.get_or_insert(cause);
                }
                Err(cause) => return Err(not_set(setting, cause)),
            }
        }
        Err(self.has_no_file(setting, absent))
    }

    fn has_no_file(&self, setting: &Setting, cause: Option<sys::Error>) -> Error {
        let error = Error::new(format!("cannot set {}", setting.property));
        let error = cause.into_iter().fold(error, Error::because);
        let has = self.controllers().unwrap_or_default();
        let hint = match setting.controller.as_str() {
            "" => "this kernel has no such file".to_owned(),
            name if has.iter().any(|found| found == name) => {
                format!("this kernel's controller {name:?} has no such file")
            }
            name => format!(
                "the cgroup {} does not have the controller {name:?}",
                self.path()
            ),
        };
        error.hint(hint)
    }

    /// Makes the cgroup `relative` beneath this one, and those between, all with `controllers`; what is there already stays.
    /// Returns it and whether it is new.
    pub fn make_beneath(&self, relative: &str, controllers: &[&str]) -> Result<(Self, bool)> {
        let mut at: Option<Self> = None;
        let mut is_new = false;
        for name in relative.split('/').filter(|name| !name.is_empty()) {
            let above = at.as_ref().unwrap_or(self);
            above.enable(controllers)?;
            is_new = above.make_directory(name)?;
            let made = above.child(name)?.ok_or_else(|| {
                Error::new(format!(
                    "cannot open the cgroup {}",
                    join(above.path(), name)
                ))
                .because("somebody removed it")
            })?;
            at = Some(made);
        }
        at.map(|made| (made, is_new))
            .ok_or_else(|| Error::new(format!("{relative:?} is no name for a cgroup")))
    }
}

fn not_set(setting: &Setting, cause: sys::Error) -> Error {
    let hint = match cause.errno {
        libc::EINVAL | libc::ERANGE => Some("the kernel does not take this value"),
        libc::ENODEV => Some("there is no such device, or it has no queue that can be limited"),
        libc::EBUSY => Some("more is used than that by now, and it cannot be freed"),
        libc::ENOSPC => Some("the limits of the cgroups above leave no room for that"),
        libc::EACCES | libc::EPERM => Some("the file was not delegated to you"),
        _ => None,
    };
    let error = Error::new(format!("cannot set {}", setting.property))
        .because_of(&cause)
        .step(Step::Cgroup);
    hint.into_iter().fold(error, Error::hint)
}

/// Those of `names` that are not in `known`.
fn not_in<'a>(names: &[&'a str], known: &[String]) -> Vec<&'a str> {
    let mut missing: Vec<&str> = Vec::new();
    for name in names {
        if !known.iter().any(|k| k == name) && !missing.contains(name) {
            missing.push(name);
        }
    }
    missing
}

/// The controllers that `settings` need, each once.
pub fn controllers_of(settings: &[Setting]) -> Vec<&str> {
    let names: Vec<&str> = settings
        .iter()
        .map(|setting| setting.controller.as_str())
        .filter(|name| !name.is_empty())
        .collect();
    not_in(&names, &[])
}

#[cfg(test)]
mod tests {
    use super::super::fs::pretended;
    use super::*;
    use crate::plan::FileWrite;

    fn setting(controller: &str, writes: &[(&str, &str)]) -> Setting {
        Setting {
            property: "/linux/resources/memory/limit".to_owned(),
            controller: controller.to_owned(),
            writes: writes
                .iter()
                .map(|(file, value)| FileWrite {
                    file: (*file).to_owned(),
                    value: (*value).to_owned(),
                })
                .collect(),
        }
    }

    #[test]
    fn a_controller_that_is_not_there_is_named_with_who_lacks_it() {
        let (_place, dir) = pretended(&[
            ("cgroup.controllers", "cpu pids\n"),
            ("cgroup.subtree_control", "cpu\n"),
        ]);
        dir.enable(&[]).unwrap();
        dir.enable(&["cpu"]).unwrap();
        let error = dir.enable(&["pids", "memory"]).unwrap_err();
        assert_eq!(
            error.message(),
            "the cgroup controller \"memory\" is not available: cgroup.controllers of /pretended does not have it"
        );
        assert!(error.hints().unwrap().contains("/ must enable it"));
        assert_eq!(dir.read("cgroup.subtree_control").unwrap(), "cpu\n");
    }

    #[test]
    fn the_first_file_that_is_there_is_written() {
        let (_place, dir) = pretended(&[("b", ""), ("c", ""), ("cgroup.controllers", "memory\n")]);
        let enforced = dir
            .apply(
                &[setting("memory", &[("a", "1"), ("b", "2"), ("c", "3")])],
                true,
                &mut Vec::new(),
            )
            .unwrap();
        assert_eq!((&*enforced[0].file, &*enforced[0].value), ("b", "2"));
        assert_eq!(dir.read("b").unwrap(), "2");
        assert_eq!(dir.read("c").unwrap(), "");

        let hints = |controller| {
            let error = dir
                .apply(&[setting(controller, &[("a", "1")])], true, &mut Vec::new())
                .unwrap_err();
            assert!(
                error
                    .message()
                    .contains("cannot set /linux/resources/memory/limit")
            );
            assert!(error.message().contains("/a\", O_WRONLY): ENOENT"));
            error.hints().unwrap()
        };
        assert!(hints("pids").contains("does not have the controller \"pids\""));
        assert!(hints("memory").contains("this kernel's controller \"memory\" has no such file"));
    }

    #[test]
    fn what_cannot_be_set_is_a_note_where_it_is_not_required() {
        let (_place, dir) = pretended(&[("b", ""), ("cgroup.controllers", "memory\n")]);
        let settings = [
            setting("memory", &[("a", "1")]),
            setting("memory", &[("b", "2")]),
        ];
        let mut notes = Vec::new();
        assert!(dir.apply(&settings, true, &mut notes).is_err());
        assert!(notes.is_empty());
        let enforced = dir.apply(&settings, false, &mut notes).unwrap();
        assert_eq!(enforced.len(), 1);
        assert_eq!(enforced[0].file, "b");
        assert_eq!(notes.len(), 1);
        assert_eq!(notes[0].property, "/linux/resources/memory/limit");
        assert!(notes[0].reason.starts_with("not kept: "), "{:?}", notes[0]);
    }

    #[test]
    fn controllers_are_named_once() {
        let settings = [
            setting("memory", &[]),
            setting("", &[]),
            setting("cpu", &[]),
            setting("memory", &[]),
        ];
        assert_eq!(controllers_of(&settings), ["memory", "cpu"]);
    }

    #[test]
    fn cgroups_between_are_made_too() {
        let (_place, dir) = pretended(&[]);
        let (made, is_new) = dir.make_beneath("a/b/", &[]).unwrap();
        assert_eq!((made.path(), is_new), ("/pretended/a/b", true));
        assert!(!dir.make_beneath("/a/b", &[]).unwrap().1);
        for none in ["", "/"] {
            assert!(dir.make_beneath(none, &[]).is_err());
        }
        assert!(dir.make_beneath("../x", &[]).is_err());
    }
}
