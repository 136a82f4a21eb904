//! Classic BPF as seccomp(2) has it: what the prologue is written in, and what a program answers.

use crate::sys::seccomp::Instruction;

const LD_ABS: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JA: u16 = 0x05; // BPF_JMP | BPF_JA
const JEQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JGT: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JGE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const JSET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RET: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// The offset of the upper half of an argument, or of its lower one.
pub(super) fn half(argument: u8, upper: bool) -> u32 {
    let first_is_upper = cfg!(target_endian = "big");
    ARGUMENTS + 8 * u32::from(argument) + if upper == first_is_upper { 0 } else { 4 }
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

pub(super) fn load(offset: u32) -> Instruction {
    instruction(LD_ABS, 0, 0, offset)
}

pub(super) fn and(mask: u32) -> Instruction {
    instruction(AND, 0, 0, mask)
}

/// Goes on `count` instructions further.
pub(super) fn pass_over(count: usize) -> Instruction {
    instruction(JA, 0, 0, u32::try_from(count).unwrap_or(u32::MAX))
}

pub(super) fn answer(value: u32) -> Instruction {
    instruction(RET, 0, 0, value)
}

/// How many instructions to pass over where it is equal, and where it is not.
pub(super) fn if_equal(k: u32, yes: u8, no: u8) -> Instruction {
    instruction(JEQ, yes, no, k)
}

pub(super) fn if_above(k: u32, yes: u8, no: u8) -> Instruction {
    instruction(JGT, yes, no, k)
}

pub(super) fn if_at_least(k: u32, yes: u8, no: u8) -> Instruction {
    instruction(JGE, yes, no, k)
}

/// A call, as a filter sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Call {
    /// `AUDIT_ARCH_…`.
    pub(super) audit: u32,
    /// Its number.
    pub(super) number: u32,
    /// Its arguments.
    pub(super) arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> Option<u32> {
        match offset {
            NUMBER => return Some(self.number),
            ARCH => return Some(self.audit),
            // The instruction pointer: no filter of ours asks for it.
            8 | 12 => return Some(0),
            _ => {}
        }
        for (index, argument) in (0u8..).zip(self.arguments) {
            let (upper, lower) = ((argument >> 32), argument & u64::from(u32::MAX));
            if offset == half(index, true) {
                return u32::try_from(upper).ok();
            }
            if offset == half(index, false) {
                return u32::try_from(lower).ok();
            }
        }
        None
    }
}

/// What `program` answers to `call`; `None` for a program that the kernel would not take.
pub(super) fn run(program: &[Instruction], call: &Call) -> Option<u32> {
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let one = program.get(at)?;
        at += 1;
        let holds = match one.code {
            LD_ABS => {
                accumulator = call.word(one.k)?;
                continue;
            }
            AND => {
                accumulator &= one.k;
                continue;
            }
            JA => {
                at += usize::try_from(one.k).ok()?;
                continue;
            }
            RET => return Some(one.k),
            JEQ => accumulator == one.k,
            JGT => accumulator > one.k,
            JGE => accumulator >= one.k,
            JSET => accumulator & one.k != 0,
            _ => return None,
        };
        at += usize::from(if holds { one.jt } else { one.jf });
    }
}
