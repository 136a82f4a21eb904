//! Compiling: numbers for names, libseccomp's program for the rules, the prologue before it.

use std::collections::HashMap;

use super::arch::{Architecture, architectures};
use super::bpf::{self, Call};
use super::prologue::{ENOSYS, NewerRule, Part, prologue};
use super::{LONGEST, checkpointable, leniency, newer, value};
use crate::bundle::Problem;
use crate::plan::{Seccomp, SeccompAction, SeccompCondition, SeccompOperator, SeccompRule};
use crate::sys;
use crate::sys::seccomp::{Compare, Instruction, Rules};

/// Compiles `plan` for this machine.
///
/// # Errors
/// Each name that cannot be blocked because nobody knows it, what libseccomp does not take, a program that is longer
/// than the kernel's limit, or under which nothing could be run.
pub fn compile(plan: &Seccomp) -> Result<Vec<Instruction>, Vec<Problem>> {
    let archs = architectures(&plan.architectures);
    let mut parts: Vec<Part> = archs.iter().map(|arch| part(plan, *arch)).collect();
    let mut problems = Vec::new();
    let mut newer = Vec::new();
    log_overruled(plan);
    let rules = begin(plan, &archs).map_err(|problem| vec![problem])?;
    for rule in plan
        .rules
        .iter()
        .filter(|r| r.action != plan.default_action)
    {
        for (n, name) in rule.names.iter().enumerate() {
            let pointer = format!("{}/names/{n}", rule.pointer());
            match add(&rules, plan, rule, name, &mut newer) {
                Ok(()) => {}
                Err(message) => problems.push(Problem::new(pointer, message)),
            }
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let main = rules.compile().map_err(|error| whole(&error.to_string()))?;
    parts.retain(|part| part.newest.is_some() || !newer.is_empty());
    let mut program = if plan.checkpointable {
        checkpointable::rule(&archs)
    } else {
        Vec::new()
    };
    program.extend(prologue(&parts, &newer));
    program.extend(main);
    check(plan, &archs, &program)?;
    Ok(program)
}

fn whole(message: &str) -> Vec<Problem> {
    vec![Problem::new("/linux/seccomp", message)]
}

/// libseccomp's context, with all architectures: they must be there before the first rule.
fn begin(plan: &Seccomp, archs: &[Architecture]) -> Result<Rules, Problem> {
    let wrong = |error: sys::Error| {
        let message = format!("libseccomp does not take it: {error}");
        Problem::new("/linux/seccomp/defaultAction", message)
    };
    let foreign = value(SeccompAction::KillProcess);
    let rules = Rules::new(value(plan.default_action), foreign).map_err(wrong)?;
    for arch in archs {
        rules.add_arch(arch.token).map_err(|error| {
            let message = format!("libseccomp does not take it: {error}");
            Problem::new("/linux/seccomp/architectures", message)
        })?;
    }
    Ok(rules)
}

/// Of several rules for one call, libseccomp keeps the first that has no conditions, and passes over the rest; it has no
/// rules with the default action. No note: podman's own profile has a dozen of them.
fn log_overruled(plan: &Seccomp) {
    let mut decided: HashMap<&str, &SeccompRule> = HashMap::new();
    let decides =
        |rule: &&SeccompRule| rule.conditions.is_empty() && rule.action != plan.default_action;
    for rule in plan.rules.iter().filter(decides) {
        for name in &rule.names {
            decided.entry(name).or_insert(rule);
        }
    }
    for rule in &plan.rules {
        for name in &rule.names {
            if let Some(by) = decided
                .get(name.as_str())
                .filter(|by| by.action != rule.action)
            {
                let (pointer, by) = (rule.pointer(), by.pointer());
                tracing::debug!(
                    pointer,
                    by,
                    name,
                    "overruled: another rule is for every such call"
                );
            }
        }
    }
}

/// Adds one name of a rule; what is wrong with it otherwise.
fn add(
    rules: &Rules,
    plan: &Seccomp,
    rule: &SeccompRule,
    name: &str,
    later: &mut Vec<NewerRule>,
) -> Result<(), String> {
    let number = sys::seccomp::c_name(name).and_then(|name| sys::seccomp::number(&name));
    let Some(number) = number else {
        return match newer::number(name) {
            Some(number) => {
                add_newer(number, rule, later);
                Ok(())
            }
            None => unknown(plan, rule, name),
        };
    };
    let all: Vec<Compare> = rule.conditions.iter().map(compare).collect();
    let add = |conditions: &[Compare]| {
        let added = rules.add(value(rule.action), number, conditions);
        added.map_err(|error| match error.errno {
            nix::libc::EEXIST => {
                format!("another rule has the same conditions on {name:?} and another action")
            }
            _ => format!("libseccomp does not take the rule on {name:?}: {error}"),
        })
    };
    if rule.is_any() {
        return all
            .iter()
            .try_for_each(|one| add(std::slice::from_ref(one)));
    }
    add(&all)
}

/// As libseccomp has it: the first rule without conditions decides, and others before it have no effect.
fn add_newer(number: u32, rule: &SeccompRule, later: &mut Vec<NewerRule>) {
    let decided = |r: &NewerRule| r.number == number && r.conditions.is_empty();
    if later.iter().any(decided) {
        return;
    }
    let new = |conditions: &[SeccompCondition]| NewerRule {
        number,
        action: rule.action,
        conditions: conditions.to_vec(),
    };
    if rule.conditions.is_empty() {
        later.retain(|r| r.number != number);
    }
    if rule.is_any() {
        later.extend(
            rule.conditions
                .iter()
                .map(|one| new(std::slice::from_ref(one))),
        );
    } else {
        later.push(new(&rule.conditions));
    }
}

/// A name that nobody knows. To refuse the call instead of letting it pass is safe, and what happens on a kernel that
/// does not have it; the other way round the rule would be gone.
fn unknown(plan: &Seccomp, rule: &SeccompRule, name: &str) -> Result<(), String> {
    if leniency(rule.action) > leniency(plan.default_action) {
        tracing::debug!(
            pointer = rule.pointer(),
            name,
            "no such system call is known: passed over"
        );
        return Ok(());
    }
    let (major, minor, micro) = sys::seccomp::version();
    Err(format!(
        "there is no system call {name:?} that lodger (with libseccomp {major}.{minor}.{micro}) knows: it cannot be kept from the container; correct the name, or take it out"
    ))
}

fn compare(condition: &SeccompCondition) -> Compare {
    // libseccomp's numbers (seccomp.h, `enum scmp_compare`).
    let operator = match condition.operator {
        SeccompOperator::Ne => 1,
        SeccompOperator::Lt => 2,
        SeccompOperator::Le => 3,
        SeccompOperator::Eq => 4,
        SeccompOperator::Ge => 5,
        SeccompOperator::Gt => 6,
        SeccompOperator::MaskedEq => 7,
    };
    Compare {
        argument: condition.argument.into(),
        operator,
        first: condition.value,
        second: condition.masked,
    }
}

/// Above which number calls of `arch` fail with ENOSYS.
fn part(plan: &Seccomp, arch: Architecture) -> Part {
    let refuses = match plan.default_action {
        SeccompAction::Errno(errno) => errno != ENOSYS,
        SeccompAction::KillProcess | SeccompAction::KillThread | SeccompAction::Trap => true,
        _ => false,
    };
    let number = |name: &String| {
        let known =
            sys::seccomp::c_name(name).and_then(|c| sys::seccomp::number_on(arch.token, &c));
        known.or_else(|| newer::number(name).map(|number| arch.newer(number)))
    };
    let newest = || {
        let names = plan.rules.iter().flat_map(|rule| &rule.names);
        let named = names.filter_map(number).max().unwrap_or(0);
        named.max(arch.last_old())
    };
    Part {
        arch,
        newest: refuses.then(newest),
    }
}

/// Whether the kernel takes the program, and a program can be run under it.
fn check(
    plan: &Seccomp,
    archs: &[Architecture],
    program: &[Instruction],
) -> Result<(), Vec<Problem>> {
    if program.len() > LONGEST {
        return Err(whole(&format!(
            "the filter has {} instructions, and the kernel takes {LONGEST} at most: name fewer calls, arguments or architectures",
            program.len()
        )));
    }
    let conditional =
        |r: &SeccompRule| !r.conditions.is_empty() && r.names.iter().any(|name| name == "execve");
    let native = archs.first().zip(sys::seccomp::number(c"execve"));
    let Some((arch, number)) = native.filter(|_| !plan.rules.iter().any(conditional)) else {
        return Ok(());
    };
    let call = Call {
        audit: arch.audit,
        number: number.cast_unsigned(),
        arguments: [0; 6],
    };
    let answer = bpf::run(program, &call);
    let forbidden = [
        SeccompAction::KillProcess,
        SeccompAction::KillThread,
        SeccompAction::Trap,
        SeccompAction::Errno(0),
    ];
    let action = |answer: u32| answer & nix::libc::SECCOMP_RET_ACTION_FULL;
    if answer.is_some_and(|answer| forbidden.iter().any(|f| value(*f) == action(answer))) {
        return Err(whole(
            "the filter forbids execve(2), without which no program can be run: allow \"execve\"",
        ));
    }
    Ok(())
}
