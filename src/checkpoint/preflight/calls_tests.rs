use super::*;
use crate::plan::{Seccomp, SeccompAction, SeccompCondition, SeccompOperator, SeccompRule};
use crate::seccomp::compile;

const EPERM: SeccompAction = SeccompAction::Errno(1);

fn rule(names: &[&str], action: SeccompAction, conditions: &[SeccompCondition]) -> SeccompRule {
    SeccompRule {
        index: 0,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        action,
        conditions: conditions.to_vec(),
    }
}

fn argument(argument: u8, value: u64) -> SeccompCondition {
    SeccompCondition {
        argument,
        operator: SeccompOperator::Eq,
        value,
        masked: 0,
    }
}

fn filter(default_action: SeccompAction, rules: Vec<SeccompRule>) -> Vec<Instruction> {
    compiled(default_action, rules, false)
}

fn compiled(
    default_action: SeccompAction,
    mut rules: Vec<SeccompRule>,
    checkpointable: bool,
) -> Vec<Instruction> {
    rules.push(rule(&["execve"], SeccompAction::Allow, &[]));
    for (index, rule) in rules.iter_mut().enumerate() {
        rule.index = index;
    }
    let plan = Seccomp {
        default_action,
        architectures: Vec::new(),
        flags: Vec::new(),
        rules,
        listener: None,
        checkpointable,
    };
    compile(&plan).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// The names that an allow-list like Docker's has, without those in `but`.
fn allowed(but: &[&str]) -> Vec<Instruction> {
    let names: Vec<&str> = include_str!("../../../tests/blackbox/seccomp_allowed.txt")
        .split_whitespace()
        .filter(|name| !but.contains(name))
        .collect();
    assert!(names.len() > 300);
    let no_vsock = SeccompCondition {
        operator: SeccompOperator::Ne,
        ..argument(0, 40)
    };
    filter(
        EPERM,
        vec![
            rule(&names, SeccompAction::Allow, &[]),
            rule(&["socket"], SeccompAction::Allow, &[no_vsock]),
        ],
    )
}

fn told(filters: &[Vec<Instruction>], has: Has) -> String {
    check(filters, has)
        .err()
        .map_or_else(String::new, |error| error.to_string())
}

#[test]
fn a_profile_like_dockers_lets_criu_work() {
    let all = Has {
        terminals: true,
        timers: true,
    };
    assert_eq!(told(&[], all), "");
    assert_eq!(told(&[allowed(&[])], all), "");
    assert_eq!(told(&[filter(SeccompAction::Log, Vec::new())], all), "");
}

#[test]
fn what_podmans_profile_lacks_has_a_cure_of_its_own() {
    let told = told(&[allowed(&["vmsplice"])], Has::default());
    assert!(
        told.contains("inside the container (vmsplice), and only root"),
        "{told}"
    );
    assert!(
        told.contains("annotation dev.lodger.checkpointable=true, or with a seccomp profile that allows vmsplice"),
        "{told}"
    );
    let all = CALLS.map(|(name, ..)| name.to_str().unwrap());
    let but_vmsplice = vec![rule(&all, SeccompAction::Allow, &[])];
    assert_eq!(
        self::told(&[compiled(EPERM, but_vmsplice, true)], Has::default()),
        "",
        "with the annotation"
    );
    let flags = [argument(3, 0xa)];
    let cured = vec![
        rule(&["vmsplice"], SeccompAction::Allow, &flags),
        rule(&["mkdir"], EPERM, &[]),
    ];
    assert!(!told_for_vmsplice(cured));
    assert!(told_for_vmsplice(vec![rule(
        &["vmsplice"],
        SeccompAction::Allow,
        &[argument(3, 2)]
    )]));
}

/// Whether vmsplice is missed under rules for it and nothing else.
fn told_for_vmsplice(rules: Vec<SeccompRule>) -> bool {
    told(&[filter(EPERM, rules)], Has::default()).contains("(vmsplice")
}

#[test]
fn each_call_is_missed_whatever_takes_it() {
    let all = Has {
        terminals: true,
        timers: true,
    };
    let actions = [
        SeccompAction::KillProcess,
        SeccompAction::KillThread,
        SeccompAction::Trap,
        SeccompAction::Trace(1),
        SeccompAction::Errno(38),
        SeccompAction::Notify,
    ];
    for (n, (name, ..)) in CALLS.iter().enumerate() {
        let name = name.to_str().unwrap();
        let native = sys::seccomp::c_name(name)
            .and_then(|name| sys::seccomp::number_on(sys::seccomp::native(), &name));
        if native.is_none() {
            continue;
        }
        let action = actions[n % actions.len()];
        let one = filter(SeccompAction::Allow, vec![rule(&[name], action, &[])]);
        let told = told(&[allowed(&[]), one], all);
        assert!(told.contains(&format!("({name})")), "{name}: {told}");
        assert!(
            told.contains(&format!("profile that allows {name}")),
            "{told}"
        );
    }
}

#[test]
fn a_call_is_missed_with_the_arguments_of_criu_alone() {
    for (name, condition, is_missed) in [
        ("socket", argument(0, 1), true),
        ("socket", argument(0, 16), false),
        ("membarrier", argument(0, 512), true),
        ("membarrier", argument(0, 8), false),
        ("prctl", argument(0, 23), true),
        ("prctl", argument(0, 15), false),
        ("mmap", argument(2, 5), true),
        ("mmap", argument(2, 7), false),
        ("mprotect", argument(2, 3), true),
        ("mprotect", argument(2, 5), false),
        ("fcntl", argument(1, 16), true),
        ("fcntl", argument(1, 1024), false),
    ] {
        let one = filter(
            SeccompAction::Allow,
            vec![rule(&[name], EPERM, &[condition])],
        );
        assert_eq!(
            !told(&[one], Has::default()).is_empty(),
            is_missed,
            "{name} {condition:?}"
        );
    }
}

#[test]
fn what_is_not_there_is_not_asked_for() {
    let one = filter(
        SeccompAction::Allow,
        vec![rule(&["ioctl", "timer_gettime"], EPERM, &[])],
    );
    let told = |terminals, timers| told(std::slice::from_ref(&one), Has { terminals, timers });
    assert_eq!(told(false, false), "");
    assert!(told(true, false).contains("(ioctl)"));
    assert!(told(false, true).contains("(timer_gettime)"));
    assert!(told(true, true).contains("(ioctl, timer_gettime)"));
}

#[test]
fn feigned_ids_do_no_harm_and_a_damaged_program_is_told() {
    let feigned = SeccompAction::Errno(0);
    let fake = filter(
        SeccompAction::Allow,
        vec![rule(&["setfsuid", "setfsgid", "chown"], feigned, &[])],
    );
    assert_eq!(told(&[fake], Has::default()), "");
    let other = filter(SeccompAction::Allow, vec![rule(&["umask"], feigned, &[])]);
    assert!(told(&[other], Has::default()).contains("(umask)"));
    let mut damaged = allowed(&[]);
    damaged.truncate(3);
    let told = told(&[damaged], Has::default());
    assert!(
        told.contains("none that the kernel would have taken"),
        "{told}"
    );
}
