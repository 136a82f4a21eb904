//! What CRIU asks about the filters of a process.

use super::*;

/// Two programs that differ.
fn programs() -> Vec<Vec<Instruction>> {
    [1, 2]
        .map(|k| {
            let one = |code, k| Instruction {
                code,
                jt: 0,
                jf: 0,
                k,
            };
            vec![one(0x00, k), one(0x06, libc::SECCOMP_RET_ALLOW)]
        })
        .to_vec()
}

/// A container whose process is under as many filters as there are in `programs`.
fn filtered(programs: &[Vec<Instruction>]) -> Container {
    let programs = programs.to_vec();
    let start = move || {
        sys::cred::set_no_new_privs().unwrap();
        for program in &programs {
            sys::seccomp::load(program, 0).unwrap();
        }
        Container::new()
    };
    std::thread::spawn(start).join().unwrap()
}

#[test]
fn filters_are_given_in_the_kernels_order() {
    let container = filtered(&programs());
    let pid = container.pid();
    let seen = supervised(pid, &programs(), move || {
        let mut buffer = [0; 1 << 15];
        for (index, program) in programs().iter().enumerate() {
            assert_eq!(
                trace::get_filter(pid, index as u64, &mut buffer).unwrap(),
                2
            );
            assert_eq!(buffer[..16], to_bytes(program));
            // As the kernel: without an address, the length alone; with a wrong one, nothing.
            assert_eq!(trace::request(0x420c, pid, index as u64, 0).unwrap(), 2);
            assert!(
                trace::request(0x420c, pid, index as u64, 1)
                    .unwrap_err()
                    .is(libc::EFAULT)
            );
        }
        assert!(
            trace::get_filter(pid, 2, &mut buffer)
                .unwrap_err()
                .is(libc::ENOENT)
        );
        assert!(
            trace::get_filter(pid, u64::MAX, &mut buffer)
                .unwrap_err()
                .is(libc::ENOENT)
        );
        // As much of them as there is room for, and of the flags what others may see.
        for (index, size, flags) in [(0, 16, 0), (1, 16, 2), (1, 8, 7), (1, 100, 2)] {
            let mut metadata = [index, 7_u64];
            let address = metadata.as_mut_ptr().addr() as u64;
            let given = trace::request(0x420d, pid, size, address).unwrap();
            assert_eq!(
                (given, metadata),
                (size.min(16).cast_signed(), [index, flags])
            );
        }
        let mut none = [2_u64, 0];
        let address = none.as_mut_ptr().addr() as u64;
        for (size, address, errno) in [
            (16, address, libc::ENOENT),
            (7, address, libc::EINVAL),
            (16, 0, libc::EFAULT),
        ] {
            let refused = trace::request(0x420d, pid, size, address).unwrap_err();
            assert!(refused.is(errno), "{refused:?} {errno}");
        }
        // Not traced, or nobody.
        for other in [sys::process::own_pid(), i32::MAX, 0, -1] {
            assert!(
                trace::get_filter(other, 0, &mut buffer)
                    .unwrap_err()
                    .is(libc::ESRCH)
            );
        }
    });
    assert_eq!(seen.complaint, None);
}

#[test]
fn filters_of_its_own_are_a_reason_to_complain() {
    let container = filtered(&programs());
    let pid = container.pid();
    for (loaded, complaint) in [
        (
            &programs()[..1],
            format!("process {pid} installed 1 system call filters of its own"),
        ),
        (
            &[programs(), programs()].concat()[..],
            format!("process {pid} is under 2 system call filters, and 4 were"),
        ),
    ] {
        let seen = supervised(pid, loaded, move || {
            trace::get_filter(pid, 0, &mut [0; 1 << 15])
                .unwrap_err()
                .errno
        });
        assert_eq!(seen.had, libc::EPERM);
        assert!(
            seen.complaint.as_ref().unwrap().starts_with(&complaint),
            "{:?}",
            seen.complaint
        );
    }
}

#[test]
fn without_filters_there_is_none_to_be_read() {
    let container = Container::new();
    let pid = container.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    if !status.contains("Seccomp_filters:\t0") {
        return;
    }
    let seen = supervised(pid, &[], move || {
        trace::get_filter(pid, 0, &mut [0; 1 << 15])
            .unwrap_err()
            .errno
    });
    assert_eq!(seen.had, libc::EINVAL);
}

#[test]
fn options_that_would_be_missed_are_refused() {
    let container = Container::new();
    let pid = container.pid();
    let seen = supervised(pid, &[], move || {
        let set = |options: u64| trace::request(0x4200, pid, 0, options).map_err(|e| e.errno);
        let suspend = u64::from(filter::SUSPEND);
        [
            set(suspend),
            set(suspend | 1),
            // PTRACE_O_EXITKILL, PTRACE_O_TRACEFORK, and what is no option.
            set(suspend | 1 << 20),
            set(suspend | 2),
            set(suspend | 1 << 40),
        ]
    });
    let refused = Err(libc::EPERM);
    assert_eq!(seen.had, [Ok(0), Ok(0), refused, refused, refused]);
}
