//! Landlock around an import (landlock(7)): whatever an image makes the unpacker do, it is done to the store, or not at all.
//!
//! The process keeps what it has open (the source's files, its standard streams) and may open what is beneath the store, to read
//! and to write, and what is beneath a source that is a directory, to read. Nothing else, no network, no abstract socket and no
//! signal to a process outside, as far as the kernel knows these; and no new privileges.
#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::error::{Doing, Error, Result};
use crate::plan::Note;
use crate::sys;
use crate::sys::defence::{Defence, is_on};

/// The newest ABI whose rights are denied; an older kernel denies those that it knows.
const NEWEST: ABI = ABI::V7;

/// Confines this thread, and those that it starts from here on, to writing beneath `store` and reading beneath `sources`.
///
/// Returns a note where the kernel has no Landlock: the unpacker's own care is all there is then.
///
/// # Errors
/// The kernel has Landlock, and refuses these rules.
pub fn confine(store: BorrowedFd<'_>, sources: &[BorrowedFd<'_>]) -> Result<Option<Note>> {
    if !is_on(Defence::Confined) {
        return Ok(None);
    }
    sys::cred::set_no_new_privs().doing(|| "cannot give up new privileges".to_owned())?;
    let status = restrict(store, sources).map_err(|error| {
        Error::new("cannot confine the import with Landlock")
            .because(error)
            .hint("the kernel has Landlock, and refuses: a filter around this process may be the reason")
    })?;
    tracing::debug!(?status, "confined by Landlock");
    Ok((status == RulesetStatus::NotEnforced).then(|| {
        Note::new(
            "landlock",
            "the import is not confined: this kernel has no Landlock, or it is not enabled",
            "import images from sources that you trust, or use Linux 5.13 or newer with landlock in the kernel parameter lsm=",
        )
    }))
}

fn restrict(
    store: BorrowedFd<'_>,
    sources: &[BorrowedFd<'_>],
) -> std::result::Result<RulesetStatus, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // A whiteout is a character device, which is of no use to anybody: 0:0.
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::MakeSym
        | AccessFs::MakeFifo
        | AccessFs::MakeChar
        | AccessFs::Refer;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rule(PathBeneath::new(store, write))?;
    for source in sources {
        rules = rules.add_rule(PathBeneath::new(*source, read))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;

    /// In a thread of its own: it cannot be undone.
    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "what is tested is what a path leads to"
    )]
    fn nothing_but_the_store_and_the_source_is_reached() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["store", "source", "elsewhere"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("canary"), name).unwrap();
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = |name: &str| fs::File::open(at(name)).unwrap();
        let (store, source) = (open("store"), open("source"));
        let confined = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                if confine(store.as_fd(), &[source.as_fd()]).unwrap().is_some() {
                    return false;
                }
                let denied = |result: std::io::Result<()>| {
                    let kind = result.unwrap_err().kind();
                    assert_eq!(kind, std::io::ErrorKind::PermissionDenied);
                };
                fs::write(at("store/new"), "x").unwrap();
                fs::rename(at("store/new"), at("store/newer")).unwrap();
                assert_eq!(fs::read(at("store/canary")).unwrap(), b"store");
                assert_eq!(fs::read(at("source/canary")).unwrap(), b"source");
                denied(fs::read(at("elsewhere/canary")).map(drop));
                denied(fs::read_dir(at("elsewhere")).map(drop));
                for name in ["elsewhere", "source"] {
                    denied(fs::write(at(name).join("canary"), "x"));
                    denied(fs::write(at(name).join("new"), "x"));
                    denied(fs::remove_file(at(name).join("canary")));
                    denied(fs::create_dir(at(name).join("new")));
                    denied(std::os::unix::fs::symlink("x", at(name).join("new")));
                    let moved = fs::rename(at("store/newer"), at(name).join("newer"));
                    let kind = moved.unwrap_err().kind();
                    assert!(
                        matches!(
                            kind,
                            std::io::ErrorKind::PermissionDenied
                                | std::io::ErrorKind::CrossesDevices
                        ),
                        "{kind}"
                    );
                }
                std::net::TcpStream::connect(address).is_err() && {
                    let bound = std::net::TcpListener::bind("127.0.0.1:0");
                    bound.is_err()
                }
            });
            thread.join().unwrap()
        });
        // Older kernels, or none: the note was returned, or the network is not theirs to deny.
        if confined {
            assert!(std::net::TcpStream::connect(address).is_ok());
        }
        assert_eq!(fs::read(at("elsewhere/canary")).unwrap(), b"elsewhere");
    }
}
