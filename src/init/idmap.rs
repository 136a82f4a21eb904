//! The user namespace that tells the kernel the id map of a mount: a child is made in one for as long as that takes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::error::{Doing, Error, Result};
use crate::plan::MountIdMap;
use crate::plan::idmap::map_text;
use crate::sys;
use crate::sys::process::Cloned;
use crate::userns;

/// A user namespace beneath this process's with the maps of `map`. It lives as long as its fd, or a mount that has it.
pub(super) fn namespace(map: &MountIdMap) -> Result<OwnedFd> {
    let what = || "cannot make a user namespace for its id map".to_owned();
    let (ours, theirs) = sys::socket::pair().doing(what)?;
    let kinds = sys::ns::flag::USER | sys::ns::flag::MOUNT;
    match userns::once_freed(|| sys::process::clone(kinds)) {
        Ok(Cloned::Child) => {
            drop(ours);
            wait_to_be_mapped(&theirs)
        }
        Ok(Cloned::Parent(child)) => {
            drop(theirs);
            let namespace = write_maps(&ours, map);
            // It ends when it is hung up on.
            drop(ours);
            sys::process::wait(&child).doing(what)?;
            namespace
        }
        Err(cause) => Err(userns::explain_refusal(cause)),
    }
}

/// In the child: hands over its own directory of /proc, by which it is found in whatever pid namespace that is of, and
/// waits.
fn wait_to_be_mapped(line: &OwnedFd) -> ! {
    let handed = sys::mount::open_path(Path::new("/proc/self"))
        .and_then(|directory| sys::socket::send_with(line, b"here", directory.as_fd()))
        .and_then(|()| become_harmless(line))
        // Its maps are not init's to write before.
        .and_then(|()| sys::cred::set_dumpable(true))
        .and_then(|()| sys::socket::send(line, b"ready"))
        .and_then(|()| sys::socket::receive(line));
    sys::process::exit_now(i32::from(handed.is_err()))
}

/// Whoever looks into this process, as another container's may that shares init's namespaces, finds no file of the host
/// (CVE-2016-9962).
fn become_harmless(line: &OwnedFd) -> sys::Result<()> {
    let empty = sys::mount::FsContext::open("tmpfs")?.mount(0)?;
    let place = Path::new("/proc");
    sys::mount::attach(&empty, sys::mount::open_path(place)?, place)?;
    sys::mount::pivot_root(&empty)?;
    sys::fd::close_others(0, &[line.as_fd()])?;
    // Closed with the others.
    std::mem::forget(empty);
    Ok(())
}

fn write_maps(line: &OwnedFd, map: &MountIdMap) -> Result<OwnedFd> {
    let what = || "cannot write its id map".to_owned();
    let packet = sys::socket::receive(line).doing(what)?;
    let directory = packet.and_then(|packet| packet.fd).ok_or_else(|| {
        Error::new(what())
            .because("its process could not find itself in /proc")
            .hint("a procfs must be mounted on the host's /proc")
    })?;
    sys::socket::receive(line).doing(what)?;
    for (name, lines) in [("uid_map", &map.uids), ("gid_map", &map.gids)] {
        let text = map_text(lines);
        sys::path::write_existing_at(&directory, Path::new(name), text.as_bytes()).doing(what)?;
    }
    sys::path::open_magic_at(&directory, Path::new("ns/user")).doing(what)
}
