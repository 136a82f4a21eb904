//! Containers chosen by a regular expression over their ids, as crun has it.

use super::Global;
use crate::error::{Error, Result};
use crate::state::Store;

/// The most that a compiled expression may take, in bytes.
const MAX_COMPILED: usize = 1 << 20;

/// Does `act` on every container whose id matches `pattern`, also when one fails. None that matches is no failure.
pub(super) fn each_matching(
    global: &Global,
    pattern: &str,
    verb: &str,
    mut act: impl FnMut(&str) -> Result<()>,
) -> Result<u8> {
    let expression = regex::RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED)
        .build()
        .map_err(|error| {
            Error::new(format!("invalid regular expression {pattern:?}")).because(error)
        })?;
    let Some(store) = Store::open(global.root.as_deref())? else {
        return Ok(0);
    };
    let mut failures = Vec::new();
    let ids = store.ids()?;
    let matching: Vec<&String> = ids.iter().filter(|id| expression.is_match(id)).collect();
    for id in &matching {
        if let Err(error) = act(id) {
            failures.push(error);
        }
    }
    if failures.is_empty() {
        return Ok(0);
    }
    let what = format!(
        "cannot {verb} {} of the {} containers that match {pattern:?}",
        failures.len(),
        matching.len()
    );
    Err(failures.iter().fold(Error::new(what), |told, failure| {
        let told = told.because(failure.message());
        match failure.hints() {
            Some(hints) => told.hint(hints),
            None => told,
        }
    }))
}
