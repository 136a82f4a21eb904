//! Annotations: kept for `state`, and a few of them acted upon.

use std::collections::BTreeMap;

use oci_spec::runtime::Spec;

use super::Note;
use crate::bundle::pointer_token;

/// An annotation that changes what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acting {
    /// Its key; one that ends with a dot is the beginning of keys.
    pub key: &'static str,
    /// What it does.
    pub effect: &'static str,
}

/// The container's processes keep the caller's supplementary groups where this is `1`.
pub(super) const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// Every annotation that is acted upon: `features` tells of them, as a config that others may write should not have them
/// unseen (features.md, "potentiallyUnsafeConfigAnnotations").
pub const ACTING: [Acting; 2] = [
    Acting {
        key: KEEP_GROUPS,
        effect: "\"1\": the container's processes keep the caller's supplementary groups",
    },
    Acting {
        key: super::unit_annotations::PREFIX,
        effect: "a property of the container's scope, of a list of harmless ones",
    },
];

/// The beginnings of annotations that change what other runtimes do.
const FOREIGN: [&str; 2] = ["run.oci.", "org.criu."];

/// The annotations of `spec`. What another runtime would act upon and this one does not is noted.
pub(super) fn annotations(spec: &Spec, notes: &mut Vec<Note>) -> BTreeMap<String, String> {
    let annotations = spec.annotations().iter().flatten();
    let annotations: BTreeMap<String, String> =
        annotations.map(|(k, v)| (k.clone(), v.clone())).collect();
    for (key, value) in &annotations {
        if key == KEEP_GROUPS {
            notes.extend((!keeps_groups(&annotations)).then(|| not_one(value)));
        } else if FOREIGN.iter().any(|prefix| key.starts_with(prefix)) && !acts(key) {
            notes.push(foreign(key));
        }
    }
    annotations
}

/// Whether the caller's supplementary groups are to stay.
pub fn keeps_groups(annotations: &BTreeMap<String, String>) -> bool {
    annotations
        .get(KEEP_GROUPS)
        .is_some_and(|value| value == "1")
}

fn acts(key: &str) -> bool {
    let matches = |acting: &Acting| {
        key == acting.key || acting.key.ends_with('.') && key.starts_with(acting.key)
    };
    ACTING.iter().any(matches)
}

fn not_one(value: &str) -> Note {
    Note::new(
        format!("/annotations/{KEEP_GROUPS}"),
        format!("the groups are the config's: {value:?} is not \"1\""),
        "write \"1\", or take it out",
    )
}

fn foreign(key: &str) -> Note {
    Note::new(
        format!("/annotations/{}", pointer_token(key)),
        "kept, but not acted upon: lodger does not do yet what other runtimes do with it",
        "take it out, or use another runtime if it matters",
    )
}
