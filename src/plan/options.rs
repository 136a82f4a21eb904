//! Mount options: one table for every option of runtime-spec config.md, "Linux mount options".

use super::{Atime, Attribute, Attributes, Propagation, PropagationKind};

/// What one option does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing (`defaults`).
    Nothing,
    /// Sets an attribute of the mount.
    Set(Attribute),
    /// Clears an attribute of the mount.
    Clear(Attribute),
    /// Chooses the access time policy.
    Atime(Atime),
    /// Takes back an access time policy, for the kernel's default one.
    NotAtime(Atime),
    /// Takes back `relatime`, without another policy in its place.
    NoRelatime,
    /// Changes the propagation.
    Propagate(PropagationKind),
    /// Sets a superblock flag that fsconfig(2) knows.
    Flag(&'static str),
    /// Takes back a superblock flag: the state of every new filesystem.
    NoFlag(&'static str),
    /// A superblock flag that the mount API does not carry.
    Lost,
    /// Makes it a bind mount.
    Bind,
    /// Changes a mount that is there already.
    Remount,
    /// Maps the ids of the mount.
    IdMap,
    /// Copies into a new tmpfs what it covers.
    CopyUp,
}

/// An option, what it does, and whether that goes for the mounts beneath too.
pub(super) type Row = (&'static str, Effect, bool);

const ONE: bool = false;
const TREE: bool = true;

/// Every option of config.md; all others are data for the filesystem.
pub(super) const TABLE: &[Row] = &[
    ("async", Effect::NoFlag("sync"), ONE),
    ("atime", Effect::NotAtime(Atime::Noatime), ONE),
    ("bind", Effect::Bind, ONE),
    ("defaults", Effect::Nothing, ONE),
    ("dev", Effect::Clear(Attribute::Nodev), ONE),
    ("diratime", Effect::Clear(Attribute::Nodiratime), ONE),
    ("dirsync", Effect::Flag("dirsync"), ONE),
    ("exec", Effect::Clear(Attribute::Noexec), ONE),
    ("idmap", Effect::IdMap, ONE),
    ("iversion", Effect::Lost, ONE),
    ("lazytime", Effect::Flag("lazytime"), ONE),
    ("loud", Effect::NoFlag("silent"), ONE),
    ("mand", Effect::Lost, ONE),
    ("noatime", Effect::Atime(Atime::Noatime), ONE),
    ("nodev", Effect::Set(Attribute::Nodev), ONE),
    ("nodiratime", Effect::Set(Attribute::Nodiratime), ONE),
    ("noexec", Effect::Set(Attribute::Noexec), ONE),
    ("noiversion", Effect::NoFlag("iversion"), ONE),
    ("nolazytime", Effect::NoFlag("lazytime"), ONE),
    ("nomand", Effect::NoFlag("mand"), ONE),
    ("norelatime", Effect::NoRelatime, ONE),
    ("nostrictatime", Effect::NotAtime(Atime::Strictatime), ONE),
    ("nosuid", Effect::Set(Attribute::Nosuid), ONE),
    ("nosymfollow", Effect::Set(Attribute::Nosymfollow), ONE),
    ("private", Effect::Propagate(PropagationKind::Private), ONE),
    ("ratime", Effect::NotAtime(Atime::Noatime), TREE),
    ("rbind", Effect::Bind, TREE),
    ("rdev", Effect::Clear(Attribute::Nodev), TREE),
    ("rdiratime", Effect::Clear(Attribute::Nodiratime), TREE),
    ("relatime", Effect::Atime(Atime::Relatime), ONE),
    ("remount", Effect::Remount, ONE),
    ("rexec", Effect::Clear(Attribute::Noexec), TREE),
    ("ridmap", Effect::IdMap, TREE),
    ("rnoatime", Effect::Atime(Atime::Noatime), TREE),
    ("rnodev", Effect::Set(Attribute::Nodev), TREE),
    ("rnodiratime", Effect::Set(Attribute::Nodiratime), TREE),
    ("rnoexec", Effect::Set(Attribute::Noexec), TREE),
    ("rnorelatime", Effect::NoRelatime, TREE),
    ("rnostrictatime", Effect::NotAtime(Atime::Strictatime), TREE),
    ("rnosuid", Effect::Set(Attribute::Nosuid), TREE),
    ("rnosymfollow", Effect::Set(Attribute::Nosymfollow), TREE),
    ("ro", Effect::Set(Attribute::Ro), ONE),
    (
        "rprivate",
        Effect::Propagate(PropagationKind::Private),
        TREE,
    ),
    ("rrelatime", Effect::Atime(Atime::Relatime), TREE),
    ("rro", Effect::Set(Attribute::Ro), TREE),
    ("rrw", Effect::Clear(Attribute::Ro), TREE),
    ("rshared", Effect::Propagate(PropagationKind::Shared), TREE),
    ("rslave", Effect::Propagate(PropagationKind::Slave), TREE),
    ("rstrictatime", Effect::Atime(Atime::Strictatime), TREE),
    ("rsuid", Effect::Clear(Attribute::Nosuid), TREE),
    ("rsymfollow", Effect::Clear(Attribute::Nosymfollow), TREE),
    (
        "runbindable",
        Effect::Propagate(PropagationKind::Unbindable),
        TREE,
    ),
    ("rw", Effect::Clear(Attribute::Ro), ONE),
    ("shared", Effect::Propagate(PropagationKind::Shared), ONE),
    ("silent", Effect::Lost, ONE),
    ("slave", Effect::Propagate(PropagationKind::Slave), ONE),
    ("strictatime", Effect::Atime(Atime::Strictatime), ONE),
    ("suid", Effect::Clear(Attribute::Nosuid), ONE),
    ("symfollow", Effect::Clear(Attribute::Nosymfollow), ONE),
    ("sync", Effect::Flag("sync"), ONE),
    ("tmpcopyup", Effect::CopyUp, ONE),
    (
        "unbindable",
        Effect::Propagate(PropagationKind::Unbindable),
        ONE,
    ),
];

/// The options that do what config.md says, sorted: not those that nothing carries.
pub fn known() -> Vec<&'static str> {
    let works = |effect: &Effect| !matches!(effect, Effect::Lost);
    let mut known: Vec<&str> = TABLE
        .iter()
        .filter(|(_, effect, _)| works(effect))
        .map(|(name, _, _)| *name)
        .collect();
    known.sort_unstable();
    known
}

/// The options of one mount, sorted by what they are for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Attributes of the mount itself.
    pub attributes: Attributes,
    /// Attributes of the whole tree.
    pub recursive: Attributes,
    /// Propagation changes, in order.
    pub propagation: Vec<Propagation>,
    /// Superblock flags.
    pub flags: Vec<&'static str>,
    /// Options that ask for, or take back, a superblock flag: a bind mount cannot follow them. With their index.
    pub superblock: Vec<(usize, String)>,
    /// Options that nothing carries. With their index.
    pub lost: Vec<(usize, String)>,
    /// Whether there was `bind` (false) or `rbind` (true).
    pub bind: Option<bool>,
    /// Whether there was `remount`.
    pub remount: bool,
    /// The index of `idmap` (false) or `ridmap` (true).
    pub id_map: Option<(usize, bool)>,
    /// The index of `tmpcopyup`.
    pub copy_up: Option<usize>,
    /// The rest, for the filesystem. With their index.
    pub data: Vec<(usize, String, Option<String>)>,
}

/// How the data for a filesystem are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commas {
    /// Unknown options are joined with commas in mount(2), so that a comma within one separates two.
    Separate,
    /// So they do, but for one behind a backslash: overlayfs has paths for data.
    Escapable,
}

/// Sorts `options`; of two that contradict each other the later one holds.
pub(super) fn sort(options: &[String], commas: Commas) -> Options {
    let mut sorted = Options::default();
    for (index, option) in options.iter().enumerate() {
        match TABLE.iter().find(|(name, _, _)| name == option) {
            Some((_, effect, tree)) => sorted.apply(index, option, *effect, *tree),
            None => sorted.data(index, option, commas),
        }
    }
    sorted
}

impl Options {
    fn apply(&mut self, index: usize, option: &str, effect: Effect, tree: bool) {
        let attributes = if tree {
            &mut self.recursive
        } else {
            &mut self.attributes
        };
        match effect {
            Effect::Nothing => {}
            Effect::Set(attribute) => attributes.set(attribute),
            Effect::Clear(attribute) => attributes.clear(attribute),
            Effect::Atime(policy) => attributes.atime = Some(policy),
            Effect::NotAtime(policy) => attributes.not_atime(policy),
            Effect::NoRelatime => {
                attributes.atime = attributes.atime.filter(|a| *a != Atime::Relatime);
            }
            Effect::Propagate(kind) => self.propagation.push(Propagation {
                kind,
                recursive: tree,
            }),
            Effect::Flag(flag) => {
                self.flags.retain(|f| *f != flag);
                self.flags.push(flag);
                self.superblock.push((index, option.to_owned()));
            }
            Effect::NoFlag(flag) => {
                self.flags.retain(|f| *f != flag);
                self.superblock.push((index, option.to_owned()));
            }
            Effect::Lost => self.lost.push((index, option.to_owned())),
            Effect::Bind => self.bind = Some(tree || self.bind == Some(true)),
            Effect::Remount => self.remount = true,
            Effect::IdMap => {
                let recursive = tree || self.id_map.is_some_and(|(_, recursive)| recursive);
                self.id_map = Some((index, recursive));
            }
            Effect::CopyUp => self.copy_up = Some(index),
        }
    }

    fn data(&mut self, index: usize, option: &str, commas: Commas) {
        let mut escaped = false;
        let parts = option.split(|c| {
            let separates = c == ',' && !(escaped && commas == Commas::Escapable);
            escaped = c == '\\' && !escaped;
            separates
        });
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (part, None),
            };
            self.data.push((index, name.to_owned(), value));
        }
    }
}

impl Attributes {
    pub(super) fn set(&mut self, attribute: Attribute) {
        self.clear.retain(|a| *a != attribute);
        if !self.set.contains(&attribute) {
            self.set.push(attribute);
        }
    }

    fn clear(&mut self, attribute: Attribute) {
        self.set.retain(|a| *a != attribute);
        if !self.clear.contains(&attribute) {
            self.clear.push(attribute);
        }
    }

    /// `atime` and `nostrictatime` ask for the kernel's default (mount(8)), which is relatime since Linux 2.6.30.
    fn not_atime(&mut self, policy: Atime) {
        if self.atime.is_none_or(|a| a == policy) {
            self.atime = Some(Atime::Relatime);
        }
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
