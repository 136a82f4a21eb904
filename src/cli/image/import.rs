//! `image import`.

use super::progress::{Bars, Lines, Quiet};
use super::{enter, own_store, print};
use crate::cli::{Global, size};
use crate::error::{Error, Result};
use crate::image::import::{Imported, Progress, Request};
use crate::image::source::{Platform, Reference, Source};
use crate::image::store::check_name;
use crate::image::{Limits, Owners, import as importing};
use crate::log::Log;
use crate::plan::Note;
use crate::sys;

/// Import an image from a file or a directory
///
/// SOURCE is one of:
///   oci:DIR[:TAG|@DIGEST]             an OCI image layout
///   oci-archive:FILE[:TAG|@DIGEST]    a tar file of one
///   docker-archive:FILE[:NAME:TAG]    what `docker save` and `podman save` write
///   rootfs:FILE.tar[.gz|.zst|.xz]     a root filesystem
///   rootfs:DIR                        a root filesystem that is a directory
///
/// All digests and sizes are checked. Layers that are there already are not unpacked again. The
/// image's digest and name are printed; an image that had the name before loses it.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_long_help = "\
Examples:
  skopeo copy docker://debian:12 oci-archive:debian.tar
  lodger image import oci-archive:debian.tar debian
  lodger image import rootfs:/srv/chroot/bookworm bookworm

Exit status:
  0  the image is in the store, under its name
  1  it is not: what was unpacked for it is removed"
)]
pub(super) struct Args {
    /// The image of this platform, where there are several: linux/ARCHITECTURE[/VARIANT] [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Make all files yours, and keep the owner that was wanted in an extended attribute
    ///
    /// So it is in any case where you have no subordinate ids.
    #[arg(long)]
    squash_owners: bool,
    /// What the files of a layer may have together [default: 32G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_whole)]
    max_layer_size: Option<u64>,
    /// What one file may have [default: 16G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_whole)]
    max_file_size: Option<u64>,
    /// How many entries a layer may have [default: 2000000]
    #[arg(long, value_name = "NUMBER")]
    max_entries: Option<u64>,
    /// How many directories deep a file may be [default: 1024]
    #[arg(long, value_name = "NUMBER")]
    max_depth: Option<usize>,
    /// The memory that the decompressor of a layer may ask for [default: 16M]
    #[arg(long, value_name = "SIZE", value_parser = size::parse_whole)]
    max_window: Option<u64>,
    /// Do not tell how far it is
    #[arg(short, long)]
    quiet: bool,
    /// Where the image is
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The image's name [default: the one that it has in SOURCE]
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

impl Args {
    fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            layer: self.max_layer_size.unwrap_or(usual.layer),
            file: self.max_file_size.unwrap_or(usual.file),
            entries: self.max_entries.unwrap_or(usual.entries),
            depth: self.max_depth.unwrap_or(usual.depth),
            window: self.max_window.unwrap_or(usual.window),
            ..usual
        }
    }
}

/// Does what `image import` asks.
pub(super) fn import(global: &Global, args: &Args, log: &Log) -> Result<u8> {
    let (imported, note) =
        run(global, args).map_err(|e| e.within(format!("cannot import {:?}", args.source)))?;
    let place = Vec::from_iter(note);
    log.notes(&[place, imported.image.notes.clone(), replaced(&imported)].concat());
    let image = imported.image;
    print(&format!("{} {}\n", image.manifest, image.name))?;
    Ok(0)
}

/// What was imported, and what there is to say of where.
fn run(global: &Global, args: &Args) -> Result<(Imported, Option<Note>)> {
    let reference = Reference::parse(&args.source)?;
    if let Some(name) = &args.name {
        check_name(name)?;
    }
    let platform = match &args.platform {
        Some(text) => Platform::parse(text)?,
        None => Platform::host(),
    };
    let limits = args.limits();
    let facts = global.facts()?;
    let (store, note) = own_store(global)?;
    let _lock = store.lock_shared()?;
    let request = Request {
        source: Source::open(&reference, &limits, Some(store.directory()))?,
        described: args.source.clone(),
        name: args.name.clone(),
        platform,
        limits,
        owners: Owners::of_caller(&facts, args.squash_owners),
        strict: global.is_strict(),
    };
    enter(global, &facts)?;
    prepare()?;
    let mut quiet = Quiet;
    let mut lines = Lines::default();
    let mut bars = Bars::if_terminal();
    let progress: &mut dyn Progress = match &mut bars {
        _ if args.quiet => &mut quiet,
        Some(bars) => bars,
        None => &mut lines,
    };
    importing::import(&store, &request, progress).map(|imported| (imported, note))
}

/// What has to be so of this process before it has threads.
fn prepare() -> Result<()> {
    // Every file gets the mode that its layer says.
    sys::cred::swap_umask(0);
    sys::memory::one_arena();
    sys::process::raise_open_files()
        .map_err(|cause| Error::new("cannot prepare this process").because(cause))
}

fn replaced(imported: &Imported) -> Vec<Note> {
    let before = imported.replaced.iter();
    before
        .filter(|before| before.manifest != imported.image.manifest)
        .map(|before| {
            Note::new(
                &before.name,
                format!(
                    "another image had this name, and has none now: {}",
                    before.manifest
                ),
                "`lodger image gc` removes what no image and no container needs",
            )
        })
        .collect()
}
