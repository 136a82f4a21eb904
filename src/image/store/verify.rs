//! The store compared with what was remembered of it.

use std::collections::BTreeMap;

use super::tree;
use super::{ImageRecord, ImageStore, LayerId, LayerRecord, Listing};
use crate::error::{Doing, Error, Result};

/// What was found of a layer or a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// As it was imported.
    Intact,
    /// As it was imported, but every file has been written since: the store was copied, and with it all times of change.
    Copied,
    /// Not as it was imported: how it differs.
    Damaged(String),
}

/// Compares an image with what was remembered of it: its blobs with their digests, its layers with their listings. `known` has
/// the layers that were compared before.
pub fn image(
    store: &ImageStore,
    image: &ImageRecord,
    known: &mut BTreeMap<LayerId, Finding>,
) -> Vec<(String, Finding)> {
    let mut found = Vec::new();
    let blobs = [("config", &image.config), ("manifest", &image.manifest)];
    for (kind, digest) in blobs {
        let finding = match store.blob(digest) {
            Ok(_) => Finding::Intact,
            Err(error) => Finding::Damaged(error.message()),
        };
        found.push((format!("{kind} {}", digest.short()), finding));
    }
    for id in &image.layers {
        let finding = known
            .entry(id.clone())
            .or_insert_with(|| layer(store, id))
            .clone();
        let short = id.name().get(..12).unwrap_or_default();
        found.push((format!("layer {short}"), finding));
    }
    found
}

/// Compares a layer with its listing.
pub fn layer(store: &ImageStore, id: &LayerId) -> Finding {
    let compared = store.layer(id).and_then(|record| {
        let record = record.ok_or_else(|| Error::new("it is not there"))?;
        let now = list(store, id)?;
        Ok(compare(&record, &now))
    });
    compared.unwrap_or_else(|error| Finding::Damaged(error.message()))
}

fn list(store: &ImageStore, id: &LayerId) -> Result<Listing> {
    let root = store.open_layer(id)?;
    tree::list(&root, false).doing(|| "cannot look at all of it".to_owned())
}

fn compare(record: &LayerRecord, now: &Listing) -> Finding {
    let then = &record.listing;
    if then.entries != now.entries {
        return Finding::Damaged(format!(
            "it has {} entries, and had {}",
            now.entries, then.entries
        ));
    }
    if then.bytes != now.bytes {
        return Finding::Damaged(format!(
            "its files have {} bytes, and had {}",
            now.bytes, then.bytes
        ));
    }
    if then.sum != now.sum {
        return Finding::Damaged(
            "a name, type, mode, owner, time, link or extended attribute is another".to_owned(),
        );
    }
    if now.latest <= then.latest {
        return Finding::Intact;
    }
    if now.earliest > then.latest {
        return Finding::Copied;
    }
    Finding::Damaged("some of it was changed after the import, and given its old time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::store::Moment;
    use crate::image::{Digest, Owners};

    #[test]
    fn every_difference_is_told() {
        let at = |seconds| Moment {
            seconds,
            nanoseconds: 0,
        };
        let listing = Listing {
            sum: [1, 2, 3, 4],
            entries: 10,
            bytes: 100,
            earliest: at(5),
            latest: at(7),
        };
        let record = LayerRecord {
            diff_id: Digest::of(b""),
            chain: Digest::of(b""),
            tar_size: 100,
            owners: Owners::Squashed { uid: 0, gid: 0 },
            boot_id: String::new(),
            listing: listing.clone(),
            report: crate::image::unpack::Report::default(),
        };
        let differs = |change: fn(&mut Listing)| {
            let mut now = listing.clone();
            change(&mut now);
            compare(&record, &now)
        };
        assert_eq!(differs(|_| {}), Finding::Intact);
        let copied = differs(|now| {
            now.earliest.seconds = 8;
            now.latest.seconds = 9;
        });
        assert_eq!(copied, Finding::Copied);
        for (finding, word) in [
            (differs(|now| now.entries += 1), "entries"),
            (differs(|now| now.bytes -= 1), "bytes"),
            (differs(|now| now.sum[3] += 1), "mode"),
            (
                differs(|now| now.latest.nanoseconds = 1),
                "after the import",
            ),
        ] {
            match finding {
                Finding::Damaged(how) => assert!(how.contains(word), "{how}"),
                other => panic!("{word}: {other:?}"),
            }
        }
    }
}
