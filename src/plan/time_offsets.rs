//! The clocks of a new time namespace (config-linux.md, "Offset for Time Namespace").

use oci_spec::runtime::Linux;

use super::ClockOffset;

/// The offsets, in the order of the clocks' names. What is wrong with them was said by `bundle`.
pub(super) fn time_offsets(linux: Option<&Linux>) -> Vec<ClockOffset> {
    let asked = linux.iter().flat_map(|l| l.time_offsets().iter().flatten());
    let mut offsets: Vec<ClockOffset> = asked
        .map(|(clock, offset)| ClockOffset {
            clock: clock.clone(),
            secs: offset.secs().unwrap_or(0),
            nanosecs: offset.nanosecs().unwrap_or(0),
        })
        .collect();
    offsets.sort_by(|a, b| a.clock.cmp(&b.clock));
    offsets
}
