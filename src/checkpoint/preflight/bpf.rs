//! What a system call filter answers: classic BPF as seccomp(2) has it, all of it, whoever made the program.

use crate::seccomp::LONGEST;
use crate::sys::seccomp::Instruction;

/// The size of `struct seccomp_data`.
const DATA: usize = 64;

/// Words of memory that a program has (BPF_MEMWORDS).
const MEMORY: usize = 16;

/// A call, as a filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call([u8; DATA]);

impl Call {
    /// The call `number` of the architecture `audit` (`AUDIT_ARCH_…`) with these arguments; the rest are 0.
    pub fn new(audit: u32, number: u32, arguments: &[u64]) -> Self {
        let mut data = [0; DATA];
        data[0..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&audit.to_ne_bytes());
        for (argument, place) in arguments.iter().zip(data[16..].chunks_exact_mut(8)) {
            place.copy_from_slice(&argument.to_ne_bytes());
        }
        Self(data)
    }

    fn word(&self, offset: u32) -> Option<u32> {
        let offset = usize::try_from(offset).ok()?;
        let (words, _) = self.0.as_chunks::<4>();
        let word = words.get(offset / 4).filter(|_| offset % 4 == 0)?;
        Some(u32::from_ne_bytes(*word))
    }
}

/// What `program` answers to `call` (`SECCOMP_RET_…`); `None` for one that the kernel would not have taken. As jumps lead forward
/// only, it ends.
pub fn run(program: &[Instruction], call: &Call) -> Option<u32> {
    if program.len() > LONGEST {
        return None;
    }
    let mut machine = Machine::default();
    let mut at = 0usize;
    loop {
        let one = program.get(at)?;
        at += 1;
        match machine.step(one, call)? {
            Next::Answer(answer) => return Some(answer),
            Next::Skip(count) => at = at.checked_add(usize::try_from(count).ok()?)?,
        }
    }
}

enum Next {
    Answer(u32),
    /// Go on that many instructions further.
    Skip(u32),
}

#[derive(Default)]
struct Machine {
    a: u32,
    x: u32,
    memory: [u32; MEMORY],
}

impl Machine {
    fn step(&mut self, one: &Instruction, call: &Call) -> Option<Next> {
        let k = one.k;
        // BPF_X: the operand is the index register.
        let operand = if one.code & 0x08 == 0 { k } else { self.x };
        match one.code {
            0x20 => self.a = call.word(k)?,
            0x00 => self.a = k,
            0x01 => self.x = k,
            0x80 => self.a = u32::try_from(DATA).ok()?,
            0x81 => self.x = u32::try_from(DATA).ok()?,
            0x60 => self.a = *self.word(k)?,
            0x61 => self.x = *self.word(k)?,
            0x02 => *self.word(k)? = self.a,
            0x03 => *self.word(k)? = self.x,
            0x07 => self.x = self.a,
            0x87 => self.a = self.x,
            0x06 => return Some(Next::Answer(k)),
            0x16 => return Some(Next::Answer(self.a)),
            0x05 => return Some(Next::Skip(k)),
            0x15 | 0x1d => return Some(jump(one, self.a == operand)),
            0x25 | 0x2d => return Some(jump(one, self.a > operand)),
            0x35 | 0x3d => return Some(jump(one, self.a >= operand)),
            0x45 | 0x4d => return Some(jump(one, self.a & operand != 0)),
            // The kernel ends a program that divides by zero with the answer 0.
            0x3c if operand == 0 => return Some(Next::Answer(0)),
            code => self.a = calculate(code & !0x08, self.a, operand)?,
        }
        Some(Next::Skip(0))
    }

    fn word(&mut self, index: u32) -> Option<&mut u32> {
        self.memory.get_mut(usize::try_from(index).ok()?)
    }
}

fn jump(one: &Instruction, holds: bool) -> Next {
    Next::Skip(u32::from(if holds { one.jt } else { one.jf }))
}

/// BPF_ALU.
fn calculate(code: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match code {
        0x04 => a.wrapping_add(operand),
        0x14 => a.wrapping_sub(operand),
        0x24 => a.wrapping_mul(operand),
        0x34 => a.checked_div(operand)?,
        0x44 => a | operand,
        0x54 => a & operand,
        0x64 => a.wrapping_shl(operand),
        0x74 => a.wrapping_shr(operand),
        0x84 => a.wrapping_neg(),
        0xa4 => a ^ operand,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(code: &[(u16, u8, u8, u32)]) -> Vec<Instruction> {
        let one = |(code, jt, jf, k): &(u16, u8, u8, u32)| Instruction {
            code: *code,
            jt: *jt,
            jf: *jf,
            k: *k,
        };
        code.iter().map(one).collect()
    }

    fn answer(code: &[(u16, u8, u8, u32)]) -> Option<u32> {
        let call = Call::new(0xc000_003e, 278, &[0, 0, 7, 0x1_0000_000a]);
        run(&program(code), &call)
    }

    #[test]
    fn each_instruction_does_what_the_kernel_does() {
        const RET_A: (u16, u8, u8, u32) = (0x16, 0, 0, 0);
        let load = |k| (0x20, 0, 0, k);
        let set = |k| (0x00, 0, 0, k);
        let index = |k| (0x01, 0, 0, k);
        for (code, expected) in [
            (&[load(0), RET_A][..], 278),
            (&[load(4), RET_A], 0xc000_003e),
            (
                &[
                    load(if cfg!(target_endian = "big") { 44 } else { 40 }),
                    RET_A,
                ],
                10,
            ),
            (
                &[
                    load(if cfg!(target_endian = "big") { 40 } else { 44 }),
                    RET_A,
                ],
                1,
            ),
            (&[(0x80, 0, 0, 0), RET_A], 64),
            (&[(0x81, 0, 0, 0), (0x87, 0, 0, 0), RET_A], 64),
            (
                &[set(7), (0x02, 0, 0, 15), set(1), (0x60, 0, 0, 15), RET_A],
                7,
            ),
            (
                &[
                    index(7),
                    (0x03, 0, 0, 3),
                    (0x61, 0, 0, 3),
                    (0x87, 0, 0, 0),
                    RET_A,
                ],
                7,
            ),
            (
                &[set(7), (0x07, 0, 0, 0), set(1), (0x87, 0, 0, 0), RET_A],
                7,
            ),
            (&[set(7), (0x04, 0, 0, 3), RET_A], 10),
            (&[set(7), index(4), (0x0c, 0, 0, 0), RET_A], 11),
            (&[set(3), (0x14, 0, 0, 4), RET_A], u32::MAX),
            (&[set(3), (0x24, 0, 0, 4), RET_A], 12),
            (&[set(13), (0x34, 0, 0, 4), RET_A], 3),
            (&[set(13), index(0), (0x3c, 0, 0, 0), RET_A], 0),
            (&[set(13), index(5), (0x3c, 0, 0, 0), RET_A], 2),
            (&[set(12), (0x44, 0, 0, 3), RET_A], 15),
            (&[set(12), (0x54, 0, 0, 6), RET_A], 4),
            (&[set(12), (0xa4, 0, 0, 6), RET_A], 10),
            (&[set(12), (0x64, 0, 0, 2), RET_A], 48),
            (&[set(12), (0x74, 0, 0, 2), RET_A], 3),
            (&[set(1), (0x84, 0, 0, 0), RET_A], u32::MAX),
        ] {
            assert_eq!(answer(code), Some(expected), "{code:x?}");
        }
    }

    #[test]
    fn jumps_lead_where_the_kernels_do() {
        let set = |k| (0x00, 0, 0, k);
        let index = |k| (0x01, 0, 0, k);
        for (code, expected) in [
            (&[(0x05, 0, 0, 1), (0x06, 0, 0, 1), (0x06, 0, 0, 2)][..], 2),
            (
                &[set(5), (0x15, 0, 1, 5), (0x06, 0, 0, 1), (0x06, 0, 0, 2)],
                1,
            ),
            (
                &[set(5), (0x25, 0, 1, 5), (0x06, 0, 0, 1), (0x06, 0, 0, 2)],
                2,
            ),
            (
                &[set(5), (0x35, 0, 1, 5), (0x06, 0, 0, 1), (0x06, 0, 0, 2)],
                1,
            ),
            (
                &[set(5), (0x45, 0, 1, 2), (0x06, 0, 0, 1), (0x06, 0, 0, 2)],
                2,
            ),
            (
                &[
                    set(5),
                    index(5),
                    (0x1d, 0, 1, 0),
                    (0x06, 0, 0, 1),
                    (0x06, 0, 0, 2),
                ],
                1,
            ),
        ] {
            assert_eq!(answer(code), Some(expected), "{code:x?}");
        }
    }

    #[test]
    fn what_the_kernel_would_not_take_has_no_answer() {
        for broken in [
            &[][..],
            // No end.
            &[(0x00, 0, 0, 0)],
            // Jumps out of the program.
            &[(0x05, 0, 0, u32::MAX), (0x06, 0, 0, 0)],
            &[(0x15, 9, 9, 0), (0x06, 0, 0, 0)],
            // Outside of the data, and between its words.
            &[(0x20, 0, 0, 64), (0x06, 0, 0, 0)],
            &[(0x20, 0, 0, 2), (0x06, 0, 0, 0)],
            &[(0x20, 0, 0, u32::MAX), (0x06, 0, 0, 0)],
            // Outside of the memory.
            &[(0x02, 0, 0, 16), (0x06, 0, 0, 0)],
            // By zero; of bytes; unknown.
            &[(0x34, 0, 0, 0), (0x06, 0, 0, 0)],
            &[(0x30, 0, 0, 0), (0x06, 0, 0, 0)],
            &[(0xffff, 0, 0, 0), (0x06, 0, 0, 0)],
        ] {
            assert_eq!(answer(broken), None, "{broken:x?}");
        }
        let ret = program(&[(0x06, 0, 0, 1)]);
        let call = Call::new(0, 0, &[]);
        assert_eq!(run(&ret.repeat(LONGEST), &call), Some(1));
        assert_eq!(run(&ret.repeat(LONGEST + 1), &call), None);
    }
}
