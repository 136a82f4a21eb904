//! The filter of `--fake-root=ignore`: calls that only root of the whole machine could make succeed without effect.
//!
//! Package managers give files to accounts, and drop their privilege, and stop where that fails. With one id there is
//! nobody to give them to. The calls are those that Charliecloud's build mode feigns (ch-image(1), "--force"), but for capset(2): in a
//! user namespace it works as it should, and a program that gives up capabilities has then given them up. A device 0:0 is
//! made, as the kernel lets anybody: it is a whiteout of overlayfs.
//!
//! It is loaded before the config's own filter, so that where both answer with an errno the config's is the one that
//! counts (seccomp(2): of the same action, the filter that was loaded last); an action that is stricter counts anyway.

use super::arch::{Architecture, X32_BIT, family};
use super::bpf::{and, answer, half, if_equal, load};
use super::prologue::block;
use super::{Filter, value};
use crate::plan::SeccompAction;
use crate::sys;
use crate::sys::seccomp::Instruction;

/// The calls without conditions. Those with 32 are those of old architectures whose first ones have ids of 16 bits.
const CALLS: [&std::ffi::CStr; 25] = [
    c"chown",
    c"chown32",
    c"fchown",
    c"fchown32",
    c"fchownat",
    c"lchown",
    c"lchown32",
    c"setfsgid",
    c"setfsgid32",
    c"setfsuid",
    c"setfsuid32",
    c"setgid",
    c"setgid32",
    c"setgroups",
    c"setgroups32",
    c"setregid",
    c"setregid32",
    c"setresgid",
    c"setresgid32",
    c"setresuid",
    c"setresuid32",
    c"setreuid",
    c"setreuid32",
    c"setuid",
    c"setuid32",
];

/// mknod(2) and mknodat(2), and which of their arguments is the mode; the device is the one after it.
const MAKE_NODE: [(&std::ffi::CStr, u8); 2] = [(c"mknod", 1), (c"mknodat", 2)];

/// S_IFMT, S_IFBLK and S_IFCHR (inode(7)).
const KIND: u32 = 0o170_000;
const BLOCK: u32 = 0o060_000;
const CHARACTER: u32 = 0o020_000;

/// `filter`, and before it the one that feigns.
pub fn with_fake_root(filter: Option<Filter>) -> Filter {
    match filter {
        Some(filter) => Filter {
            before: program(),
            ..filter
        },
        None => Filter {
            before: program(),
            program: Vec::new(),
            flags: 0,
            notifies: false,
        },
    }
}

/// The program, for all architectures that this machine can run.
fn program() -> Vec<Instruction> {
    let mut program = vec![allow()];
    for arch in family().into_iter().rev() {
        let body = body(arch);
        if !body.is_empty() {
            let mut block = block(arch, body, program.len() - 1);
            block.append(&mut program);
            program = block;
        }
    }
    program
}

fn allow() -> Instruction {
    answer(value(SeccompAction::Allow))
}

/// Success, without the call.
fn feigned() -> Instruction {
    answer(value(SeccompAction::Errno(0)))
}

/// The call's number, as a filter sees it.
fn number(arch: Architecture, name: &std::ffi::CStr) -> Option<u32> {
    let number = sys::seccomp::number_on(arch.token, name)?;
    // Whatever libseccomp leaves out of the number of an x32 call.
    Some(if arch.is_x32() {
        number | X32_BIT
    } else {
        number
    })
}

/// With the call's number loaded, and so it is at the end.
fn body(arch: Architecture) -> Vec<Instruction> {
    let mut code = Vec::new();
    for number in CALLS.into_iter().filter_map(|name| number(arch, name)) {
        code.extend([if_equal(number, 0, 1), feigned()]);
    }
    for (name, mode) in MAKE_NODE {
        if let Some(number) = number(arch, name) {
            code.extend([
                if_equal(number, 0, 8),
                load(half(mode, false)),
                and(KIND),
                if_equal(BLOCK, 3, 0),
                if_equal(CHARACTER, 0, 3),
                load(half(mode + 1, false)),
                if_equal(0, 1, 0),
                feigned(),
                allow(),
            ]);
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::super::bpf::{Call, run};
    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;

    fn answers(audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let call = Call {
            audit,
            number,
            arguments,
        };
        run(&program(), &call).unwrap()
    }

    fn is_feigned(audit: u32, number: u32, arguments: [u64; 6]) -> bool {
        let answer = answers(audit, number, arguments);
        assert!(answer == feigned().k || answer == allow().k, "{answer:#x}");
        answer == feigned().k
    }

    #[test]
    fn every_call_on_every_architecture_of_this_machine() {
        let mut seen = 0;
        for arch in family() {
            for name in CALLS {
                let Some(number) = number(arch, name) else {
                    continue;
                };
                assert!(is_feigned(arch.audit, number, [1; 6]), "{arch:?} {name:?}");
                seen += 1;
            }
            for name in [c"getuid", c"capset", c"fchmodat"] {
                let number = number(arch, name).unwrap();
                assert!(!is_feigned(arch.audit, number, [1; 6]), "{arch:?} {name:?}");
            }
        }
        assert!(seen >= 14, "{seen}");
        // No architecture of this machine: nothing is feigned.
        assert!(!is_feigned(0x1234, 92, [1; 6]));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_numbers_of_x86_are_those_of_its_three_tables() {
        // arch/x86/entry/syscalls: chown, setuid and setgroups of 64 bits; then of x32; then of 32 bits, old and new.
        for number in [92, 105, 116] {
            assert!(is_feigned(X86_64, number, [0; 6]), "{number}");
            assert!(is_feigned(X86_64, number | X32_BIT, [0; 6]), "{number}");
        }
        for number in [182, 212, 23, 213, 81, 206] {
            assert!(is_feigned(I386, number, [0; 6]), "{number}");
        }
        // The same numbers, of the other table.
        assert!(!is_feigned(I386, 92, [0; 6]));
        assert!(!is_feigned(X86_64, 213, [0; 6]));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn devices_alone_are_feigned_and_whiteouts_are_made() {
        let mknod = |mode: u64, device: u64| is_feigned(X86_64, 133, [7, mode, device, 0, 0, 0]);
        let mknodat = |mode: u64, device: u64| is_feigned(X86_64, 259, [3, 7, mode, device, 0, 0]);
        for (mode, device, expected) in [
            (0o020_666, 0x103, true),
            (0o060_660, 0x801, true),
            (0o060_660, 0, true),
            (0o020_000, 0, false),
            (0o010_644, 0, false),
            (0o100_644, 0x103, false),
            (0o140_644, 0, false),
            (0o644, 0x103, false),
        ] {
            assert_eq!(mknod(mode, device), expected, "{mode:o}");
            assert_eq!(mknodat(mode, device), expected, "{mode:o}");
        }
    }
}
