//! The options of `checkpoint` for what is saved in several dumps.

use std::path::{Path, PathBuf};

use crate::checkpoint::dump::Extent;
use crate::checkpoint::image::{Draft, Parent};
use crate::checkpoint::{preflight, tracked};
use crate::error::{Error, Result};
use crate::state::Entry;

/// Which of several dumps it is.
#[derive(Debug, clap::Args)]
pub(super) struct Iterative {
    /// Save the memory alone, while the container goes on
    ///
    /// The checkpoint that follows, with --parent-path, has less to save while the container stands still. Needs a kernel that keeps
    /// track of what is written (CONFIG_MEM_SOFT_DIRTY).
    #[arg(long)]
    pub(super) pre_dump: bool,
    /// Leave out memory that has not changed since the dump in DIR, a path as seen from --image-path
    ///
    /// It must be the container's latest one that was made with --pre-dump or with this option. What is left out is linked: DIR
    /// itself is not needed any more.
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,
}

impl Iterative {
    /// Whether it can be done at all; `paused`: whether the container is.
    ///
    /// # Errors
    /// The kernel does not keep track of memory; a paused container's memory is to be saved alone.
    pub(super) fn check(&self, paused: bool) -> Result<()> {
        if self.pre_dump && paused {
            return Err(Error::new("it is paused")
                .because("--pre-dump saves memory while the container goes on")
                .hint("resume it first; or make the checkpoint, which has all of it"));
        }
        match self.pre_dump || self.parent_path.is_some() {
            true => preflight::tracking(),
            false => Ok(()),
        }
    }

    /// What of the container `entry` is to be saved into `draft`, which becomes the directory `images`. What went before has its
    /// place there afterwards.
    ///
    /// # Errors
    /// That is damaged, or another dump came after it; it cannot be put there.
    pub(super) fn extent(&self, entry: &Entry, draft: &Draft, images: &Path) -> Result<Extent> {
        let path = self.parent_path.as_ref().map(|path| images.join(path));
        let parent = path.map(|path| parent(&path, entry, images)).transpose()?;
        if let Some(parent) = &parent {
            parent.link_into(draft.new_files())?;
        }
        let since = parent.map(|parent| parent.digest().to_owned());
        Ok(match (self.pre_dump, since) {
            (true, since) => Extent::Memory(since),
            (false, Some(since)) => Extent::Since(since),
            (false, None) => Extent::Whole,
        })
    }
}

/// The latest dump of the container `entry`, in the directory `path`.
fn parent(path: &Path, entry: &Entry, images: &Path) -> Result<Parent> {
    if are_one(path, images) {
        return Err(
            Error::new("--parent-path is the directory of the images itself")
                .hint("name another one with --image-path: what is in this one is needed"),
        );
    }
    let parent = Parent::open(path)?;
    if tracked::since(entry)?.as_deref() == Some(parent.digest()) {
        return Ok(parent);
    }
    Err(Error::new(format!("cannot save what has changed since {path:?}"))
        .because("it is another container's dump, or not the latest one since which the kernel keeps track of memory")
        .hint("name the latest one that was made with --pre-dump or --parent-path; or leave --parent-path out, to save all memory"))
}

fn are_one(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    matches!((place(one), place(other)), (Ok(one), Ok(other)) if one == other)
}
