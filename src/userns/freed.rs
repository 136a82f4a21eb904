//! The kernel counts a user namespace for a moment after its last process has ended: whoever makes one after the other may be
//! told that there are too many (ENOSPC) though there are not.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::sys;

/// How many there may be here (namespaces(7)).
const LIMIT: &str = "/proc/sys/user/max_user_namespaces";

/// Three times as long as that moment was ever seen to last, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two attempts: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(16));

/// Does `attempt`, which makes a user namespace, again for a moment while the answer is ENOSPC; not where there may be none
/// at all.
pub fn once_freed<T>(attempt: impl FnMut() -> sys::Result<T>) -> sys::Result<T> {
    until(attempt, PATIENCE, may_have_any)
}

fn until<T>(
    mut attempt: impl FnMut() -> sys::Result<T>,
    patience: Duration,
    is_worth_it: impl FnOnce() -> bool,
) -> sys::Result<T> {
    match attempt() {
        Err(error) if error.is(libc::ENOSPC) && is_worth_it() => {}
        answer => return answer,
    }
    let begin = Instant::now();
    let mut pause = PAUSE.0;
    loop {
        std::thread::sleep(pause);
        // The last attempt is after the time.
        let is_last = begin.elapsed() >= patience;
        match attempt() {
            Err(error) if error.is(libc::ENOSPC) && !is_last => pause = (pause * 2).min(PAUSE.1),
            answer => return answer,
        }
    }
}

fn may_have_any() -> bool {
    sys::path::read_regular(Path::new(LIMIT), 64)
        .is_ok_and(|text| String::from_utf8_lossy(&text).trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(errno: i32, times: u32, patience: Duration) -> (u32, sys::Result<u32>) {
        let mut count = 0;
        let answer = until(
            || {
                count += 1;
                match count > times {
                    true => Ok(count),
                    false => Err(sys::Error::new("unshare", "CLONE_NEWUSER", errno)),
                }
            },
            patience,
            || true,
        );
        (count, answer)
    }

    #[test]
    fn only_too_many_is_tried_again_and_not_for_ever() {
        // Enough for a machine with much else to do.
        let long = Duration::from_secs(60);
        assert_eq!(failing(libc::ENOSPC, 0, long), (1, Ok(1)));
        assert_eq!(failing(libc::ENOSPC, 2, long), (3, Ok(3)));
        let (count, answer) = failing(libc::EPERM, 2, long);
        assert!(count == 1 && answer.unwrap_err().is(libc::EPERM));
        let (count, answer) = failing(libc::ENOSPC, u32::MAX, Duration::from_millis(30));
        assert!(count > 1 && answer.unwrap_err().is(libc::ENOSPC));
    }

    #[test]
    fn nothing_is_waited_for_where_there_may_be_none() {
        let mut count = 0;
        let refused = || {
            count += 1;
            Err::<(), _>(sys::Error::new("unshare", "CLONE_NEWUSER", libc::ENOSPC))
        };
        assert!(until(refused, Duration::MAX, || false).is_err());
        assert_eq!(count, 1);
    }
}
