//! What the specification requires of hooks (config.md, "POSIX-platform Hooks"), and whether a config may have some.

use oci_spec::runtime::{Hook, Spec};

use super::Problem;
use super::validate::environment;

/// Lists what is wrong with the hooks of `spec`.
pub(super) fn check(spec: &Spec) -> Vec<Problem> {
    let Some(hooks) = spec.hooks() else {
        return Vec::new();
    };
    let lists = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    let mut problems = Vec::new();
    for (name, list) in lists {
        for (index, hook) in list.iter().flatten().enumerate() {
            check_one(hook, &format!("/hooks/{name}/{index}"), &mut problems);
        }
    }
    problems
}

fn check_one(hook: &Hook, pointer: &str, problems: &mut Vec<Problem>) {
    if !hook.path().is_absolute() {
        let message = "must be an absolute path: nothing is looked for in PATH";
        problems.push(Problem::new(format!("{pointer}/path"), message));
    }
    let env = hook.env().as_deref().unwrap_or_default();
    problems.extend(environment(&format!("{pointer}/env"), env));
    if hook.timeout().is_some_and(|seconds| seconds <= 0) {
        let message = "must be greater than 0 seconds";
        problems.push(Problem::new(format!("{pointer}/timeout"), message));
    }
}

/// Whether `config`, the text of a config.json, may have hooks, before it is parsed: a key is written as it is, or with
/// escapes for some of its letters.
pub fn may_have_hooks(config: &[u8]) -> bool {
    const PLAIN: &[u8] = b"\"hooks\"";
    /// The letters of the word, as JSON can also have them.
    const ESCAPED: [&[u8]; 4] = [b"\\u0068", b"\\u006f", b"\\u006b", b"\\u0073"];
    config.windows(PLAIN.len()).any(|window| match window[0] {
        b'"' => window == PLAIN,
        b'\\' => ESCAPED
            .iter()
            .any(|escaped| window[..escaped.len()].eq_ignore_ascii_case(escaped)),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_noticed_however_the_key_is_written() {
        for config in [
            r#"{"hooks": {}}"#,
            r#"{"\u0068ooks": {}}"#,
            r#"{"ho\u006Fks": {}}"#,
            r#"{"hoo\u006bs": {}}"#,
            r#"{"hook\u0073":{}}"#,
        ] {
            assert!(may_have_hooks(config.as_bytes()), "{config}");
        }
        for config in ["", "{}", r#"{"env": ["GIT_HOOKS=hooks", "\u003c"]}"#] {
            assert!(!may_have_hooks(config.as_bytes()), "{config}");
        }
    }
}
