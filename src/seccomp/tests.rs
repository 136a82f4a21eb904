//! Compiled programs answer as the rules say, for every call and argument tried: they are run by `bpf::run`.

use proptest::prelude::*;

use super::arch::architectures;
use super::bpf::{Call, run};
use super::prologue::ENOSYS;
use super::*;
use crate::plan::{SeccompCondition, SeccompOperator, SeccompRule};

fn rule(names: &[&str], action: SeccompAction, conditions: &[SeccompCondition]) -> SeccompRule {
    SeccompRule {
        index: 0,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        action,
        conditions: conditions.to_vec(),
    }
}

fn profile(default: SeccompAction, rules: Vec<SeccompRule>) -> Seccomp {
    let mut rules = rules;
    // Nothing can be run otherwise.
    rules.push(rule(&["execve"], SeccompAction::Allow, &[]));
    for (index, rule) in rules.iter_mut().enumerate() {
        rule.index = index;
    }
    Seccomp {
        default_action: default,
        architectures: Vec::new(),
        flags: Vec::new(),
        rules,
        listener: None,
        checkpointable: false,
    }
}

fn number(name: &str) -> u32 {
    let known = crate::sys::seccomp::c_name(name).and_then(|n| crate::sys::seccomp::number(&n));
    let known = known.and_then(|n| u32::try_from(n).ok());
    known.or_else(|| newer::number(name)).unwrap()
}

fn native() -> u32 {
    architectures(&[])[0].audit
}

fn answer(program: &[Instruction], number: u32, arguments: [u64; 6]) -> u32 {
    let call = Call {
        audit: native(),
        number,
        arguments,
    };
    run(program, &call).unwrap()
}

fn compiled(plan: &Seccomp) -> Vec<Instruction> {
    compile(plan).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn refused(plan: &Seccomp) -> String {
    let problems = compile(plan).unwrap_err();
    problems.iter().map(|p| format!("{p}\n")).collect()
}

const EPERM: SeccompAction = SeccompAction::Errno(1);

#[test]
fn a_call_without_a_rule_gets_the_default_and_a_newer_one_enosys() {
    let program = compiled(&profile(
        EPERM,
        vec![rule(&["read", "openat2"], SeccompAction::Allow, &[])],
    ));
    let told = |number| answer(&program, number, [0; 6]);
    assert_eq!(told(number("read")), value(SeccompAction::Allow));
    assert_eq!(told(number("write")), value(EPERM));
    assert_eq!(told(number("close_range")), value(EPERM));
    let newest = number("openat2");
    for newer in [newest + 1, 500, 0x3fff_ffff] {
        assert_eq!(told(newer), value(SeccompAction::Errno(ENOSYS)), "{newer}");
    }
    // Between the last old call and the first of the common numbering there is none.
    let short = compiled(&profile(EPERM, vec![]));
    let old = architectures(&[])[0].last_old();
    assert_eq!(answer(&short, old, [0; 6]), value(EPERM));
    let enosys = value(SeccompAction::Errno(ENOSYS));
    assert_eq!(answer(&short, old + 1, [0; 6]), enosys);
}

#[test]
fn a_permissive_default_and_an_explicit_enosys_stay_as_they_are() {
    for default in [
        SeccompAction::Allow,
        SeccompAction::Log,
        SeccompAction::Trace(1),
        SeccompAction::Errno(ENOSYS),
    ] {
        let program = compiled(&profile(default, vec![rule(&["read"], EPERM, &[])]));
        assert_eq!(answer(&program, 999, [0; 6]), value(default), "{default:?}");
        assert_eq!(answer(&program, number("read"), [0; 6]), value(EPERM));
    }
}

#[test]
fn calls_that_libseccomp_does_not_know_are_blocked_and_allowed_all_the_same() {
    let program = compiled(&profile(
        SeccompAction::Allow,
        vec![rule(&["listns", "mseal"], EPERM, &[])],
    ));
    assert_eq!(answer(&program, 470, [0; 6]), value(EPERM));
    assert_eq!(answer(&program, 462, [0; 6]), value(EPERM));
    assert_eq!(answer(&program, 461, [0; 6]), value(SeccompAction::Allow));
    let program = compiled(&profile(
        EPERM,
        vec![rule(&["fchmodat2"], SeccompAction::Allow, &[])],
    ));
    assert_eq!(answer(&program, 452, [0; 6]), value(SeccompAction::Allow));
    assert_eq!(answer(&program, 451, [0; 6]), value(EPERM));
    let enosys = value(SeccompAction::Errno(ENOSYS));
    assert_eq!(answer(&program, 453, [0; 6]), enosys);
}

#[test]
fn a_name_that_nobody_knows_is_refused_where_it_was_to_be_blocked() {
    let strict = profile(
        SeccompAction::Allow,
        vec![rule(&["read", "no_such_call"], EPERM, &[])],
    );
    let text = refused(&strict);
    assert!(
        text.starts_with("/linux/seccomp/syscalls/0/names/1: "),
        "{text}"
    );
    assert!(text.contains("\"no_such_call\""), "{text}");
    let lenient = profile(
        EPERM,
        vec![rule(&["no_such_call"], SeccompAction::Allow, &[])],
    );
    assert!(compile(&lenient).is_ok());
    // As strict as the default, but not the same.
    let other = profile(
        EPERM,
        vec![rule(&["no_such_call"], SeccompAction::Errno(5), &[])],
    );
    assert!(compile(&other).is_err());
}

#[test]
fn a_filter_under_which_nothing_can_be_run_is_refused() {
    let mut plan = profile(EPERM, vec![]);
    plan.rules.clear();
    let text = refused(&plan);
    assert!(text.contains("forbids execve(2)"), "{text}");
    plan.default_action = SeccompAction::KillProcess;
    assert!(compile(&plan).is_err());
    plan.default_action = SeccompAction::Log;
    assert!(compile(&plan).is_ok());
}

#[test]
fn the_same_condition_with_two_actions_is_refused() {
    let same = [condition(0, SeccompOperator::Eq, 5, 0)];
    let plan = profile(
        EPERM,
        vec![
            rule(&["read"], SeccompAction::Allow, &same),
            rule(&["read"], SeccompAction::Log, &same),
        ],
    );
    let text = refused(&plan);
    assert!(
        text.contains("/linux/seccomp/syscalls/1/names/0: another rule"),
        "{text}"
    );
}

#[test]
#[cfg(target_arch = "x86_64")]
fn an_architecture_that_is_not_listed_is_killed() {
    let mut plan = profile(EPERM, vec![rule(&["read"], SeccompAction::Allow, &[])]);
    let i386 = |program: &[Instruction], number| {
        let call = Call {
            audit: 0x4000_0003,
            number,
            arguments: [0; 6],
        };
        run(program, &call).unwrap()
    };
    let x32 = |program: &[Instruction], number: u32| answer(program, number | 0x4000_0000, [0; 6]);
    let program = compiled(&plan);
    let killed = value(SeccompAction::KillProcess);
    assert_eq!(i386(&program, 3), killed);
    assert_eq!(x32(&program, 0), killed);
    assert_eq!(x32(&program, 999), killed);
    plan.architectures = [
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X32",
        "SCMP_ARCH_ARM",
        "SCMP_ARCH_PPC",
    ]
    .map(str::to_owned)
    .to_vec();
    let program = compiled(&plan);
    let allowed = value(SeccompAction::Allow);
    let enosys = value(SeccompAction::Errno(ENOSYS));
    assert_eq!(i386(&program, 3), allowed);
    assert_eq!(i386(&program, 4), value(EPERM));
    assert_eq!(i386(&program, 999), enosys);
    assert_eq!(x32(&program, 0), allowed);
    assert_eq!(x32(&program, 1), value(EPERM));
    assert_eq!(x32(&program, 999), enosys);
    assert_eq!(answer(&program, 999, [0; 6]), enosys);
    // ARM cannot be run here.
    let arm = Call {
        audit: 0x4000_0028,
        number: 3,
        arguments: [0; 6],
    };
    assert_eq!(run(&program, &arm), Some(killed));
}

#[test]
fn conditions_on_one_argument_are_alternatives() {
    let either = [
        condition(0, SeccompOperator::Eq, 5, 0),
        condition(0, SeccompOperator::Eq, 7, 0),
    ];
    for name in ["read", "mseal"] {
        let plan = profile(EPERM, vec![rule(&[name], SeccompAction::Allow, &either)]);
        let program = compiled(&plan);
        let told = |first| answer(&program, number(name), [first, 0, 0, 0, 0, 0]);
        assert_eq!(told(5), value(SeccompAction::Allow));
        assert_eq!(told(7), value(SeccompAction::Allow));
        assert_eq!(told(6), value(EPERM));
    }
}

fn condition(argument: u8, operator: SeccompOperator, value: u64, masked: u64) -> SeccompCondition {
    SeccompCondition {
        argument,
        operator,
        value,
        masked,
    }
}

fn holds(condition: &SeccompCondition, arguments: [u64; 6]) -> bool {
    let argument = arguments[usize::from(condition.argument)];
    let value = condition.value;
    match condition.operator {
        SeccompOperator::Ne => argument != value,
        SeccompOperator::Lt => argument < value,
        SeccompOperator::Le => argument <= value,
        SeccompOperator::Eq => argument == value,
        SeccompOperator::Ge => argument >= value,
        SeccompOperator::Gt => argument > value,
        SeccompOperator::MaskedEq => argument & value == condition.masked,
    }
}

/// Numbers at which comparisons of halves go wrong.
fn numbers() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..4,
        Just(u64::from(u32::MAX)),
        (1u64 << 32)..(1u64 << 32) + 3,
        Just(u64::MAX),
        Just(0x8000_0000_8000_0000),
        any::<u64>(),
    ]
}

fn conditions() -> impl Strategy<Value = Vec<SeccompCondition>> {
    let operators = prop_oneof![
        Just(SeccompOperator::Ne),
        Just(SeccompOperator::Lt),
        Just(SeccompOperator::Le),
        Just(SeccompOperator::Eq),
        Just(SeccompOperator::Ge),
        Just(SeccompOperator::Gt),
        Just(SeccompOperator::MaskedEq),
    ];
    let one = (operators, numbers(), numbers()).prop_map(|(operator, value, masked)| {
        let masked = match operator {
            SeccompOperator::MaskedEq => masked & value,
            _ => 0,
        };
        (operator, value, masked)
    });
    let set = proptest::sample::subsequence(vec![0u8, 1, 2, 3, 4, 5], 1..4);
    (set, proptest::collection::vec(one, 4)).prop_map(|(arguments, all)| {
        let pairs = arguments.into_iter().zip(all);
        pairs
            .map(|(argument, (operator, value, masked))| {
                condition(argument, operator, value, masked)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// libseccomp's code and ours answer alike, and as the operators mean it.
    #[test]
    fn a_conditional_rule_holds_for_exactly_its_arguments(
        conditions in conditions(),
        others in proptest::collection::vec(proptest::array::uniform6(numbers()), 8),
    ) {
        let plan = profile(
            SeccompAction::Log,
            vec![rule(&["read", "statmount"], SeccompAction::Errno(7), &conditions)],
        );
        let program = compiled(&plan);
        // Half of them at the edge of each condition.
        let mut tried = others.clone();
        for mut arguments in others {
            for one in &conditions {
                arguments[usize::from(one.argument)] = match one.operator {
                    SeccompOperator::MaskedEq => one.masked | !one.value,
                    _ => one.value,
                };
            }
            tried.push(arguments);
        }
        for arguments in tried {
            let all = conditions.iter().all(|one| holds(one, arguments));
            let expected = value(if all { SeccompAction::Errno(7) } else { SeccompAction::Log });
            for name in ["read", "statmount"] {
                prop_assert_eq!(answer(&program, number(name), arguments), expected, "{} {:?}", name, arguments);
            }
        }
    }

    /// No instruction jumps out of the program, and every number of a call has an answer.
    #[test]
    fn every_call_has_the_answer_of_the_rules(
        allowed in proptest::sample::subsequence(vec!["read", "write", "openat", "openat2", "cachestat", "mseal", "clone3", "prctl"], 0..8),
        foreign in any::<bool>(),
    ) {
        let mut plan = profile(EPERM, vec![rule(&allowed, SeccompAction::Allow, &[])]);
        if foreign {
            plan.architectures = vec!["SCMP_ARCH_X86".to_owned(), "SCMP_ARCH_X32".to_owned(), "SCMP_ARCH_ARM".to_owned()];
        }
        let program = compiled(&plan);
        let mut numbers: Vec<u32> = allowed.iter().map(|name| number(name)).collect();
        numbers.push(number("execve"));
        let newest = numbers.iter().copied().max().unwrap_or(0).max(architectures(&[])[0].last_old());
        for call in 0..600 {
            let expected = if numbers.contains(&call) {
                SeccompAction::Allow
            } else if call > newest {
                SeccompAction::Errno(ENOSYS)
            } else {
                EPERM
            };
            prop_assert_eq!(answer(&program, call, [0; 6]), value(expected), "{}", call);
        }
    }
}
