//! Which image is meant, and whether it is what it should be.

use std::collections::BTreeSet;

use super::platform::Platform;
use crate::error::{Error, Result};
use crate::image::{Digest, Hasher};
use crate::sys::defence::{Defence, is_on};

/// How many names an error lists.
const LISTED: usize = 20;

/// One image of several.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) digest: &'a Digest,
    pub(super) platform: Option<&'a Platform>,
}

/// The one for `platform`: its place in `offers`.
pub(super) fn among(source: &str, offers: &[Offer<'_>], platform: &Platform) -> Result<usize> {
    if offers.len() == 1 && offers[0].platform.is_none() {
        return Ok(0);
    }
    // One whose platform is not said may be for any, but where one is said that fits, this is it.
    let rank = |offer: &Offer<'_>| match offer.platform {
        Some(offered) => platform.rank(offered),
        None => Some(usize::MAX),
    };
    let ranked = offers.iter().map(rank).enumerate();
    let ranked: Vec<(usize, usize)> = ranked.filter_map(|(at, rank)| Some((rank?, at))).collect();
    let Some((best, at)) = ranked.iter().min() else {
        let list: BTreeSet<String> = offers
            .iter()
            .filter_map(|offer| offer.platform)
            .map(Platform::to_string)
            .collect();
        return Err(wrong_platform(source, platform, &listed(&list)));
    };
    if ranked.iter().filter(|(rank, _)| rank == best).count() == 1 {
        return Ok(*at);
    }
    let list = offers.iter().map(|offer| match offer.name {
        Some(name) => format!(":{name}"),
        None => format!("@{}", offer.digest),
    });
    let error = Error::new(format!("{source} holds several images"));
    Err(error.hint(format!(
        "name one of them after the path: {}",
        listed(&list.collect())
    )))
}

/// There is none of the name `tag`.
pub(super) fn no_such_name(source: &str, tag: &str, names: &BTreeSet<String>) -> Error {
    let error = Error::new(format!("{source} has no image named {tag:?}"));
    if names.is_empty() {
        return error.hint("its images have no names: leave the name out, or give @DIGEST");
    }
    error.hint(format!("it has {}", listed(names)))
}

/// `names` in one line, the first of them if there are many.
pub(super) fn listed(names: &BTreeSet<String>) -> String {
    let mut list: Vec<&str> = names.iter().take(LISTED).map(String::as_str).collect();
    let more = format!("{} more", names.len().saturating_sub(LISTED));
    if names.len() > LISTED {
        list.push(&more);
    }
    list.join(", ")
}

fn wrong_platform(source: &str, platform: &Platform, there: &str) -> Error {
    Error::new(format!("{source} is not for {platform}, but for {there}"))
        .hint("`--platform OS/ARCHITECTURE[/VARIANT]` takes another than this machine's")
}

/// Whether a config `what`, which is for `offered`, is for `platform`. One that does not say may be.
pub(super) fn check_platform(platform: &Platform, offered: &Platform, what: &str) -> Result<()> {
    let is_said = !offered.os.is_empty() && !offered.architecture.is_empty();
    if is_said && platform.rank(offered).is_none() {
        return Err(wrong_platform(what, platform, &offered.to_string()));
    }
    Ok(())
}

/// Whether a config `what` has one diff id for each layer.
pub(super) fn check_count(what: &str, diff_ids: usize, layers: usize) -> Result<()> {
    if diff_ids == layers {
        return Ok(());
    }
    Err(Error::new(format!(
        "{what} has {diff_ids} diff_ids, and the manifest has {layers} layers"
    )))
}

/// Whether `text` is what `digest` means.
pub(super) fn check_digest(text: &[u8], digest: &Digest, what: &str) -> Result<()> {
    let mut hasher = Hasher::like(digest);
    hasher.update(text);
    let real = hasher.finish();
    if real == *digest || !is_on(Defence::BlobDigests) {
        return Ok(());
    }
    Err(Error::new(format!("{what} is not what its digest means"))
        .because(format!("its content has the digest {real}"))
        .hint("the file is damaged, or was changed: get it again"))
}
