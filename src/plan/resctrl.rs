//! `linux.intelRdt`: a class of service of resctrl, which an ordinary user never has to give.
//!
//! The specification wants an error where it cannot be had. The reason is told as exactly as the host's facts tell it.

use oci_spec::runtime::Linux;

use crate::bundle::Problem;
use crate::host::{HostFacts, Resctrl};

/// Refuses `linux.intelRdt`, if it asks for anything.
pub(super) fn refuse(linux: Option<&Linux>, facts: &HostFacts, problems: &mut Vec<Problem>) {
    let asks = linux.and_then(|l| l.intel_rdt().as_ref()).is_some();
    if !asks {
        return;
    }
    let why = match &facts.details.resctrl {
        Resctrl::Unknown => {
            "this host has no resctrl: its CPU has no resource director (RDT, PQoS), or its kernel was built without \
             CONFIG_X86_CPU_RESCTRL; run the container without it, or on another machine"
                .to_owned()
        }
        Resctrl::NotMounted => {
            "resctrl is not mounted on this host: ask the administrator for `mount -t resctrl resctrl /sys/fs/resctrl`, \
             and for a class of service, which root alone can put your processes in; run the container without it meanwhile"
                .to_owned()
        }
        Resctrl::Mounted(path) => format!(
            "a class of service of resctrl ({}) is the whole machine's and root's to give: lodger puts no process in one; ask \
             the administrator to add the container's processes to the `tasks` file of a class, and take it out here",
            path.display()
        ),
    };
    problems.push(Problem::new("/linux/intelRdt", why));
}
