//! The rule of the annotation `dev.lodger.checkpointable`: CRIU takes the memory of a process with vmsplice(2), called in that process
//! and so under its filter, and the usual profiles forbid that call. It passes with exactly the flags that CRIU gives it.
//!
//! The rule stands before everything else: libseccomp has none that goes before one without conditions.

use super::arch::Architecture;
use super::bpf::{answer, half, if_equal, load};
use super::prologue::block;
use super::value;
use crate::plan::SeccompAction;
use crate::sys;
use crate::sys::seccomp::Instruction;

/// SPLICE_F_NONBLOCK and SPLICE_F_GIFT (linux/splice.h).
const FLAGS: u32 = 0x02 | 0x08;

/// Which argument of vmsplice(2) has the flags: an `unsigned int`, of which the kernel looks at the lower half.
const ARGUMENT: u8 = 3;

/// The rule, for this machine's own architecture, the first of `archs`, and of the others for that which CRIU dumps processes of,
/// too. Behind its end follows the rest, which every call comes to that it does not let pass.
pub(super) fn rule(archs: &[Architecture]) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (index, arch) in archs.iter().enumerate() {
        if index != 0 && !arch.is_i386() {
            continue;
        }
        if let Some(number) = sys::seccomp::number_on(arch.token, c"vmsplice") {
            code.extend(block(*arch, body(number), 0));
        }
    }
    code
}

/// With the call's number loaded.
fn body(number: u32) -> Vec<Instruction> {
    vec![
        if_equal(number, 0, 3),
        load(half(ARGUMENT, false)),
        if_equal(FLAGS, 0, 1),
        answer(value(SeccompAction::Allow)),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::arch::architectures;
    use super::super::bpf::{Call, run};
    use super::super::{compile, with_fake_root};
    use super::*;
    use crate::plan::{Seccomp, SeccompRule};

    const I386: u32 = 0x4000_0003;
    const X32_BIT: u32 = 0x4000_0000;
    const EPERM: SeccompAction = SeccompAction::Errno(1);

    /// What is told of vmsplice(2) with these flags.
    fn told(program: &[Instruction], audit: u32, number: u32, flags: u64) -> u32 {
        let call = Call {
            audit,
            number,
            arguments: [5, 0x7f00_dead_beef, 3, flags, 0, 0],
        };
        run(program, &call).unwrap()
    }

    fn rule_on(name: &str, action: SeccompAction) -> SeccompRule {
        SeccompRule {
            index: 0,
            names: vec![name.to_owned()],
            action,
            conditions: Vec::new(),
        }
    }

    fn profile(default_action: SeccompAction, rules: Vec<SeccompRule>) -> Seccomp {
        let mut rules = rules;
        rules.push(rule_on("execve", SeccompAction::Allow));
        Seccomp {
            default_action,
            architectures: Vec::new(),
            flags: Vec::new(),
            rules,
            listener: None,
            checkpointable: true,
        }
    }

    fn native() -> (u32, u32) {
        let arch = architectures(&[])[0];
        let number = sys::seccomp::number_on(arch.token, c"vmsplice").unwrap();
        (arch.audit, number)
    }

    #[test]
    fn it_passes_as_criu_calls_it_and_no_other_way_whatever_the_profile_says() {
        let (audit, number) = native();
        for (what, refused, plan) in [
            ("not named", EPERM, profile(EPERM, vec![])),
            (
                "refused by name",
                SeccompAction::Errno(38),
                profile(EPERM, vec![rule_on("vmsplice", SeccompAction::Errno(38))]),
            ),
            (
                "forbidden alone",
                SeccompAction::KillProcess,
                profile(
                    SeccompAction::Allow,
                    vec![rule_on("vmsplice", SeccompAction::KillProcess)],
                ),
            ),
            (
                "the default kills",
                SeccompAction::KillThread,
                profile(SeccompAction::KillThread, vec![]),
            ),
        ] {
            let program = compile(&plan).unwrap();
            let allowed = value(SeccompAction::Allow);
            assert_eq!(told(&program, audit, number, 0xa), allowed, "{what}");
            // The kernel does not look at the upper half.
            assert_eq!(
                told(&program, audit, number, 0x1_0000_000a),
                allowed,
                "{what}"
            );
            for flags in [0, 1, 2, 8, 0xb, 0xe, 0x1a, 0x8000_000a, u64::MAX, 0xa << 32] {
                let answer = told(&program, audit, number, flags);
                assert_eq!(answer, value(refused), "{what} {flags:#x}");
            }
            let without = Seccomp {
                checkpointable: false,
                ..plan
            };
            let program = compile(&without).unwrap();
            for flags in [0, 0xa] {
                assert_eq!(told(&program, audit, number, flags), value(refused));
            }
        }
    }

    #[test]
    fn no_other_call_has_another_answer() {
        let (audit, vmsplice) = native();
        let with = profile(EPERM, vec![rule_on("read", SeccompAction::Allow)]);
        let without = Seccomp {
            checkpointable: false,
            ..with.clone()
        };
        let (with, without) = (compile(&with).unwrap(), compile(&without).unwrap());
        for number in (0..600).filter(|number| *number != vmsplice) {
            for audit in [audit, I386, 0x1234] {
                let answers = [&with, &without].map(|program| told(program, audit, number, 0xa));
                assert_eq!(answers[0], answers[1], "{audit:#x} {number}");
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn of_the_other_architectures_it_is_for_i386_where_the_profile_has_that() {
        let (audit, number) = native();
        assert_eq!(number, 278);
        let mut plan = profile(EPERM, vec![]);
        let killed = value(SeccompAction::KillProcess);
        assert_eq!(told(&compile(&plan).unwrap(), I386, 316, 0xa), killed);
        plan.architectures = ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]
            .map(str::to_owned)
            .to_vec();
        let program = compile(&plan).unwrap();
        assert_eq!(told(&program, I386, 316, 0xa), value(SeccompAction::Allow));
        assert_eq!(told(&program, I386, 316, 0xb), value(EPERM));
        assert_eq!(told(&program, I386, number, 0xa), value(EPERM));
        // CRIU has no x32.
        for number in [278, 532] {
            assert_eq!(told(&program, audit, number | X32_BIT, 0xa), value(EPERM));
        }
    }

    #[test]
    fn the_filter_that_feigns_lets_it_pass_too() {
        let (audit, number) = native();
        let filter = with_fake_root(None);
        let answer = told(&filter.before, audit, number, 0xa);
        assert_eq!(answer, value(SeccompAction::Allow));
    }
}
