//! The table.

use super::finding::{Area, Finding, Weight, Who};
use super::readings::Readings;
use super::step::Step;

mod cgroups;
mod ids;
mod kernel;
mod limits;
mod mounts;
mod session;
mod storage;
mod unexplained;
mod userns;

/// A cause.
pub(super) struct Row {
    /// Its code.
    pub(super) code: &'static str,
    /// What it is about.
    pub(super) area: Area,
    /// Who can remove it.
    pub(super) who: Who,
    /// The steps that it can make fail.
    pub(super) steps: &'static [Step],
    /// Looks whether it is so here.
    pub(super) look: fn(&Readings) -> Option<Found>,
}

/// What a row has found.
pub(super) struct Found {
    pub(super) weight: Weight,
    pub(super) what: String,
    pub(super) costs: String,
    pub(super) remedy: String,
}

impl Found {
    fn new(
        weight: Weight,
        what: impl Into<String>,
        costs: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Option<Self> {
        Some(Self {
            weight,
            what: what.into(),
            costs: costs.into(),
            remedy: remedy.into(),
        })
    }
}

impl Row {
    const fn new(
        code: &'static str,
        area: Area,
        who: Who,
        steps: &'static [Step],
        look: fn(&Readings) -> Option<Found>,
    ) -> Self {
        Self {
            code,
            area,
            who,
            steps,
            look,
        }
    }

    /// What it finds, as a finding.
    pub(super) fn finding(&self, readings: &Readings) -> Option<Finding> {
        let Found {
            weight,
            what,
            costs,
            remedy,
        } = (self.look)(readings)?;
        Some(Finding {
            code: self.code.to_owned(),
            area: self.area,
            weight,
            what,
            costs,
            remedy,
            who: self.who,
        })
    }
}

/// The rows, those that say more before those that say less.
pub(super) fn rows() -> impl Iterator<Item = &'static Row> {
    let areas: [&'static [Row]; 8] = [
        &userns::ROWS,
        &ids::ROWS,
        &mounts::ROWS,
        &storage::ROWS,
        &session::ROWS,
        &cgroups::ROWS,
        &limits::ROWS,
        &kernel::ROWS,
    ];
    areas.into_iter().flatten()
}

/// Every code that the table has.
pub fn codes() -> impl Iterator<Item = &'static str> {
    rows().map(|row| row.code).chain([unexplained::CODE])
}

/// All that the table finds in `readings`, the heaviest first.
pub fn examine(readings: &Readings) -> Vec<Finding> {
    let mut findings: Vec<Finding> = rows().filter_map(|row| row.finding(readings)).collect();
    findings.extend(unexplained::look(readings, &findings));
    findings.sort_by_key(|finding| finding.weight);
    findings
}

/// A line that sets a kernel parameter now and at every boot.
fn set_parameter(name: &str, value: u64) -> String {
    set_parameter_to(name, &value.to_string())
}

fn set_parameter_to(name: &str, value: &str) -> String {
    format!(
        "echo '{name} = {value}' | sudo tee /etc/sysctl.d/90-lodger-{}.conf && sudo sysctl -w {name}='{value}'",
        name.replace('.', "-")
    )
}

/// `EPERM`.
fn errno_name(errno: i32) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno))
}
