//! `image remove`.

use std::os::fd::AsFd;

use super::{enter, missing, own_store_if_there};
use crate::cli::Global;
use crate::error::{Error, Result};
use crate::image::{containers, remove as removing};

/// Remove images
///
/// The names go at once; layers that no image and no container needs any more go with `lodger image gc`. Containers of the image are
/// not touched.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  lodger image remove debian
  lodger image remove debian && lodger image gc
  lodger image remove --changes web  what container web left with --keep-changes

Exit status:
  0  they are gone
  1  one of them did not exist; the others are gone")]
pub(super) struct Args {
    /// The names are ids of containers: what these changed, and was kept (`run --keep-changes`), is removed
    #[arg(long)]
    changes: bool,
    /// The images' names
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Does what `image remove` asks.
pub(super) fn remove(global: &Global, args: &Args) -> Result<u8> {
    if args.changes {
        return remove_changes(global, &args.names);
    }
    let store = own_store_if_there(global)?;
    let mut left: Vec<Error> = Vec::new();
    for name in &args.names {
        let removed = store.as_ref().map_or(Ok(false), |store| {
            // A `run` that has found the name may be about to mount its layers: they stay.
            let _lock = store.lock_shared()?;
            store.forget(name)
        });
        match removed {
            Ok(true) => {}
            Ok(false) => left.push(missing(name).within("cannot remove it")),
            Err(error) => left.push(error),
        }
    }
    all_or_first(left)
}

/// Removes what was kept of containers that are no more.
fn remove_changes(global: &Global, ids: &[String]) -> Result<u8> {
    let Some(store) = own_store_if_there(global)? else {
        return Err(Error::new("nothing is kept: there is no image store"));
    };
    let _lock = store.lock_exclusive()?;
    let found = containers::all(store.directory(), store.path())?;
    let mut left = Vec::new();
    let mut paths = Vec::new();
    for id in ids {
        let what = format!("cannot remove the changes of container {id:?}");
        let kept = found.iter().find(|found| found.stays && found.name == *id);
        match kept {
            None => left.push(Error::new(what).because("none are kept")),
            Some(kept) if kept.is_used => left.push(
                Error::new(what)
                    .because("a container has them")
                    .hint(format!("`lodger delete {id}` first")),
            ),
            Some(kept) => paths.push(format!("{}/{}", kept.kind, kept.name)),
        }
    }
    if !paths.is_empty() {
        enter(global, &global.facts()?)?;
    }
    for path in paths {
        let removed = removing::tree(store.directory().as_fd(), path.as_ref());
        left.extend(
            removed
                .err()
                .map(|cause| Error::new(format!("cannot remove {path:?}")).because(cause)),
        );
    }
    all_or_first(left)
}

/// Success, or the first error with what else there was.
fn all_or_first(errors: Vec<Error>) -> Result<u8> {
    let mut errors = errors.into_iter();
    match errors.next() {
        None => Ok(0),
        Some(first) => Err(errors.fold(first, |first, other| first.hint(other.message()))),
    }
}
