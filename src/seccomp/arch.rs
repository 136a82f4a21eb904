//! Architectures: which of them this machine can run, and how they number their calls.

use crate::sys;

/// Bit 30 of a call's number on x86-64: it is of the x32 ABI.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// The number after which all architectures have the same ones, for calls of Linux 5.1 and later.
const COMMON_FROM: u32 = 403;

/// The last number of x32's own calls.
const X32_LAST: u32 = 547;

/// An architecture: its name in config-linux.md, libseccomp's token, what the kernel calls it (linux/audit.h), and what
/// its calls' numbers begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Architecture {
    name: &'static str,
    /// libseccomp's token.
    pub(super) token: u32,
    /// `AUDIT_ARCH_…`.
    pub(super) audit: u32,
    /// The number of its call 0.
    pub(super) base: u32,
}

const fn plain(name: &'static str, token: u32) -> Architecture {
    based(name, token, 0)
}

const fn based(name: &'static str, token: u32, base: u32) -> Architecture {
    Architecture {
        name,
        token,
        audit: token,
        base,
    }
}

const X86_64: Architecture = plain("SCMP_ARCH_X86_64", 0xc000_003e);
const X86: Architecture = plain("SCMP_ARCH_X86", 0x4000_0003);
const X32: Architecture = Architecture {
    name: "SCMP_ARCH_X32",
    token: 0x4000_003e,
    audit: X86_64.audit,
    base: X32_BIT,
};

/// Those that one machine can run: the calls of another family cannot be made on it.
const FAMILIES: [&[Architecture]; 11] = [
    &[X86_64, X86, X32],
    &[
        plain("SCMP_ARCH_AARCH64", 0xc000_00b7),
        plain("SCMP_ARCH_ARM", 0x4000_0028),
    ],
    &[
        based("SCMP_ARCH_MIPS64", 0x8000_0008, 5000),
        based("SCMP_ARCH_MIPS64N32", 0xa000_0008, 6000),
        based("SCMP_ARCH_MIPS", 0x0000_0008, 4000),
    ],
    &[
        based("SCMP_ARCH_MIPSEL64", 0xc000_0008, 5000),
        based("SCMP_ARCH_MIPSEL64N32", 0xe000_0008, 6000),
        based("SCMP_ARCH_MIPSEL", 0x4000_0008, 4000),
    ],
    &[
        plain("SCMP_ARCH_PPC64", 0x8000_0015),
        plain("SCMP_ARCH_PPC", 0x0000_0014),
    ],
    &[plain("SCMP_ARCH_PPC64LE", 0xc000_0015)],
    &[
        plain("SCMP_ARCH_S390X", 0x8000_0016),
        plain("SCMP_ARCH_S390", 0x0000_0016),
    ],
    &[
        plain("SCMP_ARCH_PARISC64", 0x8000_000f),
        plain("SCMP_ARCH_PARISC", 0x0000_000f),
    ],
    &[plain("SCMP_ARCH_RISCV64", 0xc000_00f3)],
    &[plain("SCMP_ARCH_LOONGARCH64", 0xc000_0102)],
    &[plain("SCMP_ARCH_M68K", 0x0000_0004)],
];

impl Architecture {
    /// The number of the call that has `number` in the common numbering.
    pub(super) fn newer(self, number: u32) -> u32 {
        self.base + number
    }

    /// Up to which number calls are older than the common numbering.
    pub(super) fn last_old(self) -> u32 {
        let last = if self == X32 {
            X32_LAST
        } else {
            COMMON_FROM - 1
        };
        self.base + last
    }

    /// Whether it is that of 32 bits on x86.
    pub(super) fn is_i386(self) -> bool {
        self == X86
    }

    /// Whether `number` is one of this architecture, among those that the kernel calls the same.
    pub(super) fn is_x32(self) -> bool {
        self == X32
    }
}

/// Those that this machine can run.
pub(super) fn family() -> Vec<Architecture> {
    let token = sys::seccomp::native();
    let family = FAMILIES
        .iter()
        .find(|family| family.iter().any(|arch| arch.token == token));
    family.map_or_else(Vec::new, |family| family.to_vec())
}

/// This machine's own architecture first, then those of `asked` that it can run.
pub(super) fn architectures(asked: &[String]) -> Vec<Architecture> {
    let token = sys::seccomp::native();
    let mut family = family();
    family.retain(|arch| arch.token == token || asked.iter().any(|name| name == arch.name));
    family.sort_by_key(|arch| arch.token != token);
    family
}
