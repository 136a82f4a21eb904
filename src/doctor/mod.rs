//! Causes and remedies: the one table that failures, `lodger doctor` and `lodger check` use.
//!
//! One EPERM has ten causes. A row names one, how it is found (by what was read or tried, never by the error number alone),
//! what it costs, and one line that removes it. Codes are stable: they are never used for another cause.
#![forbid(unsafe_code)]

mod consult;
mod diagnosis;
mod finding;
mod page;
pub mod readings;
mod step;
mod table;
mod trials;

pub use consult::consult;
pub use diagnosis::Diagnosis;
pub use finding::{Area, Finding, Mode, Weight, Who};
pub use readings::{Readings, reach};
pub use step::Step;
pub use table::{codes, examine};
