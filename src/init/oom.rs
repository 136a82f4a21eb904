//! Whom the kernel ends first when memory is short.

use std::path::Path;

use crate::doctor::Step;
use crate::error::{Error, Result};
use crate::plan::Process;
use crate::sys;

/// Writes the oom_score_adj that the process is to have, if one is given.
pub(crate) fn set_oom_score(process: &Process) -> Result<()> {
    let Some(score) = process.oom_score_adj else {
        return Ok(());
    };
    write_oom_score(score)
}

/// Writes this process's oom_score_adj (proc_pid_oom_score_adj(5)).
pub fn write_oom_score(score: i32) -> Result<()> {
    let path = Path::new("/proc/self/oom_score_adj");
    let Err(cause) = sys::path::write_existing(path, score.to_string().as_bytes()) else {
        return Ok(());
    };
    let present = sys::path::read_regular(path, 64).unwrap_or_default();
    let present = String::from_utf8_lossy(&present).trim().to_owned();
    let error = Error::new(format!(
        "cannot set oom_score_adj to {score} (/process/oomScoreAdj): the current value is {present}"
    ));
    let denied = cause.is(nix::libc::EACCES);
    let error = error.because_of(&cause).step(Step::Limit);
    if !denied {
        return Err(error);
    }
    Err(error.code("LDG-OOM-SCORE").hint(format!(
        "ask for {present} or more: going below what this session began with needs CAP_SYS_RESOURCE in the initial user \
         namespace; the administrator can begin it lower (OOMScoreAdjust= of user@.service)"
    )))
}
