//! What stands before libseccomp's program: rules for calls that it does not know, and ENOSYS for calls that nobody
//! could have named.

use super::arch::{Architecture, X32_BIT};
use super::bpf::{self, and, answer, if_above, if_at_least, if_equal, load, pass_over};
use super::value;
use crate::plan::{SeccompAction, SeccompCondition, SeccompOperator};
use crate::sys::seccomp::Instruction;

/// A rule for a call that libseccomp does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewerRule {
    /// Its number in the common numbering.
    pub(super) number: u32,
    /// What happens.
    pub(super) action: SeccompAction,
    /// If all of these hold.
    pub(super) conditions: Vec<SeccompCondition>,
}

/// What the prologue is to do for one architecture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// The architecture.
    pub(super) arch: Architecture,
    /// Above which number calls fail with ENOSYS; `None`: they get what the rules say.
    pub(super) newest: Option<u32>,
}

/// The prologue. Behind its end follows libseccomp's program, which every call comes to that was not decided before.
pub(super) fn prologue(parts: &[Part], rules: &[NewerRule]) -> Vec<Instruction> {
    let mut program = Vec::new();
    for part in parts.iter().rev() {
        let body = body(*part, rules);
        if !body.is_empty() {
            let mut block = block(part.arch, body, program.len());
            block.append(&mut program);
            program = block;
        }
    }
    program
}

/// `body` for the calls of one architecture, which pass over the `behind` instructions behind it; the others pass over
/// the body.
pub(super) fn block(arch: Architecture, body: Vec<Instruction>, behind: usize) -> Vec<Instruction> {
    let mut inner = vec![load(bpf::NUMBER)];
    if arch.audit == X86_64_AUDIT {
        // Two architectures with one name: bit 30 of the number tells them apart.
        let (x32, other) = if arch.is_x32() { (1, 0) } else { (0, 1) };
        inner.push(if_at_least(X32_BIT, x32, other));
        inner.push(pass_over(body.len() + 1));
    }
    inner.extend(body);
    inner.push(pass_over(behind));
    let mut code = vec![
        load(bpf::ARCH),
        if_equal(arch.audit, 1, 0),
        pass_over(inner.len()),
    ];
    code.append(&mut inner);
    code
}

/// AUDIT_ARCH_X86_64.
const X86_64_AUDIT: u32 = 0xc000_003e;

/// Function not implemented (errno(3)).
#[expect(clippy::cast_possible_truncation, reason = "no errno is over 4095")]
pub(super) const ENOSYS: u16 = nix::libc::ENOSYS.unsigned_abs() as u16;

/// With the call's number loaded, and so it is again at the end.
fn body(part: Part, rules: &[NewerRule]) -> Vec<Instruction> {
    let mut code = Vec::new();
    for rule in rules {
        let conditions = conditions(&rule.conditions);
        let ret = answer(value(rule.action));
        let number = part.arch.newer(rule.number);
        if conditions.is_empty() {
            code.extend([if_equal(number, 0, 1), ret]);
            continue;
        }
        // Behind the conditions: the answer, and the number loaded again.
        let length = u8::try_from(conditions.len() + 2).unwrap_or(u8::MAX);
        code.push(if_equal(number, 0, length));
        code.extend(conditions);
        code.extend([ret, load(bpf::NUMBER)]);
    }
    if let Some(newest) = part.newest {
        let enosys = SeccompAction::Errno(ENOSYS);
        code.extend([if_above(newest, 0, 1), answer(value(enosys))]);
    }
    code
}

/// Code that comes to its end where all conditions hold, and passes over one instruction more where one does not.
fn conditions(all: &[SeccompCondition]) -> Vec<Instruction> {
    let mut code: Vec<Instruction> = Vec::new();
    for condition in all.iter().rev() {
        // What is behind this condition, and the answer.
        let fail = code.len() + 1;
        let mut front = compare(condition, fail);
        front.append(&mut code);
        code = front;
    }
    code
}

/// One condition: where it does not hold, `fail` instructions behind it are passed over.
fn compare(condition: &SeccompCondition, fail: usize) -> Vec<Instruction> {
    let upper = |value: u64| u32::try_from(value >> 32).unwrap_or(u32::MAX);
    let lower = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let (value, argument) = (condition.value, condition.argument);
    let short = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
    let (high, low) = (
        load(bpf::half(argument, true)),
        load(bpf::half(argument, false)),
    );
    // Counted from each jump: what is left of the condition, then what is to be passed over.
    let away = |left: usize| short(left + fail);
    match condition.operator {
        SeccompOperator::Eq => vec![
            high,
            if_equal(upper(value), 0, away(2)),
            low,
            if_equal(lower(value), 0, away(0)),
        ],
        SeccompOperator::Ne => vec![
            high,
            if_equal(upper(value), 0, 2),
            low,
            if_equal(lower(value), away(0), 0),
        ],
        SeccompOperator::MaskedEq => {
            let wanted = condition.masked;
            vec![
                high,
                and(upper(value)),
                if_equal(upper(wanted), 0, away(3)),
                low,
                and(lower(value)),
                if_equal(lower(wanted), 0, away(0)),
            ]
        }
        SeccompOperator::Gt | SeccompOperator::Ge => {
            let last = match condition.operator {
                SeccompOperator::Gt => if_above(lower(value), 0, away(0)),
                _ => if_at_least(lower(value), 0, away(0)),
            };
            vec![
                high,
                if_above(upper(value), 3, 0),
                if_equal(upper(value), 0, away(2)),
                low,
                last,
            ]
        }
        SeccompOperator::Lt | SeccompOperator::Le => {
            let last = match condition.operator {
                SeccompOperator::Lt => if_at_least(lower(value), away(0), 0),
                _ => if_above(lower(value), away(0), 0),
            };
            vec![
                high,
                if_above(upper(value), away(3), 0),
                if_equal(upper(value), 0, 2),
                low,
                last,
            ]
        }
    }
}
