//! `linux.seccomp`: its words, and what the specification requires of it (config-linux.md, "Seccomp").

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action};

use super::Problem;

/// The actions of config-linux.md.
pub const ACTIONS: [&str; 9] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// The operators of config-linux.md.
pub const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// The architectures of config-linux.md.
pub const ARCHITECTURES: [&str; 23] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// The flags of config-linux.md.
pub const FLAGS: [&str; 4] = [
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// The last argument of a system call.
const LAST_ARGUMENT: usize = 5;

/// The largest errno that a call can return (errno(3), the kernel's MAX_ERRNO).
const MAX_ERRNO: u32 = 4095;

/// Lists what is wrong with `seccomp`.
pub(super) fn check(seccomp: &LinuxSeccomp) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |pointer: String, message: &str| {
        problems.push(Problem::new(format!("/linux/seccomp{pointer}"), message));
    };
    let default = seccomp.default_action();
    if default == Action::ScmpActNotify {
        let message = "nobody could be notified of the calls that the program needs to be run: name the calls to notify of in syscalls";
        add("/defaultAction".to_owned(), message);
    }
    if let Some(message) = wrong_errno(default, seccomp.default_errno_ret()) {
        add("/defaultErrnoRet".to_owned(), &message);
    }
    let path = seccomp.listener_path().as_ref();
    let path = path.filter(|path| !path.as_os_str().is_empty());
    let metadata = seccomp.listener_metadata().as_deref().unwrap_or_default();
    if path.is_none() && !metadata.is_empty() {
        add(
            "/listenerMetadata".to_owned(),
            "must not be set without listenerPath",
        );
    }
    if path.is_some_and(|path| !path.is_absolute()) {
        add("/listenerPath".to_owned(), "must be an absolute path");
    }
    for (index, call) in seccomp.syscalls().iter().flatten().enumerate() {
        let pointer = format!("/syscalls/{index}");
        if call.names().is_empty() {
            add(format!("{pointer}/names"), "must name at least one call");
        }
        for (n, name) in call.names().iter().enumerate() {
            if name.is_empty() {
                add(format!("{pointer}/names/{n}"), "must not be empty");
            }
        }
        if let Some(message) = wrong_errno(call.action(), call.errno_ret()) {
            add(format!("{pointer}/errnoRet"), &message);
        }
        if call.action() == Action::ScmpActNotify && path.is_none() {
            let message =
                "SCMP_ACT_NOTIFY needs somebody to notify: set /linux/seccomp/listenerPath";
            add(format!("{pointer}/action"), message);
        }
        for (n, argument) in call.args().iter().flatten().enumerate() {
            if argument.index() > LAST_ARGUMENT {
                let message = "a system call has the arguments 0 to 5";
                add(format!("{pointer}/args/{n}/index"), message);
            }
        }
    }
    problems
}

/// What is wrong with the errno of an action, if anything. The specification wants an error where it has none.
fn wrong_errno(action: Action, errno: Option<u32>) -> Option<String> {
    let errno = errno?;
    let most = match action {
        Action::ScmpActErrno => MAX_ERRNO,
        // It is data for the tracer, not an errno alone.
        Action::ScmpActTrace => u32::from(u16::MAX),
        _ => return Some(format!("{action} has no errno")),
    };
    (errno > most).then(|| format!("{errno} is more than {action} can return: {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Arch, LinuxSeccompFilterFlag, LinuxSeccompOperator};

    fn all_known<T: serde::de::DeserializeOwned>(words: &[&str]) {
        assert!(words.is_sorted());
        for word in words {
            assert!(
                serde_json::from_value::<T>((*word).into()).is_ok(),
                "{word}"
            );
        }
    }

    #[test]
    fn every_word_has_its_type() {
        all_known::<Action>(&ACTIONS);
        all_known::<LinuxSeccompOperator>(&OPERATORS);
        all_known::<Arch>(&ARCHITECTURES);
        all_known::<LinuxSeccompFilterFlag>(&FLAGS);
    }
}
