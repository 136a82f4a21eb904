//! Help: there is one for each verb, it tells of each flag, and it can be read.

use clap::Command;

use crate::harness::{Fixture, lodger_only, spawn};

/// What the program's library says its verbs are.
fn verbs() -> Vec<Command> {
    let mut command = lodger::cli::command();
    command.build();
    command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .cloned()
        .collect()
}

/// One line without what wraps it.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whatever the text is of: readable, and nothing that a generator left.
fn check_text(title: &str, text: &str) {
    assert!(
        text.ends_with('\n') && !text.ends_with("\n\n"),
        "{title}: {text:?}"
    );
    for line in text.lines() {
        assert!(line.chars().count() <= 100, "{title}: too wide: {line}");
        assert_eq!(line, line.trim_end(), "{title}");
        assert!(!line.contains('\t'), "{title}: {line}");
    }
    for leftover in [
        "Print this message or the help of the given subcommand",
        "[SUBCOMMAND]",
        "TODO",
        "  \n\n\n",
    ] {
        assert!(!text.contains(leftover), "{title}: {leftover:?} in {text}");
    }
}

#[test]
fn every_verb_has_a_help_that_tells_of_each_flag() {
    lodger_only!("the help texts");
    let fixture = Fixture::new();
    let verbs = verbs();
    assert!(verbs.len() >= 15);
    for verb in &verbs {
        let name = verb.get_name();
        let long = fixture.bare(&[name, "--help"]).ok();
        check_text(name, &long);
        assert_eq!(fixture.bare(&["help", name]).ok(), long, "{name}");
        assert!(
            long.contains(&format!("\nUsage: lodger {name}")),
            "{name}: {long}"
        );
        let flat_text = flat(&long);
        for argument in verb.get_arguments() {
            let id = argument.get_id().as_str();
            let told = argument
                .get_help()
                .unwrap_or_else(|| panic!("{name}: {id} has no text"));
            let told = flat(&told.to_string());
            assert!(
                told.len() >= 8 || id == "verb" || id == "shell",
                "{name}: {id}: {told}"
            );
            assert!(!told.ends_with('.'), "{name}: {id}: {told}");
            if argument.is_hide_set() {
                continue;
            }
            if let Some(flag) = argument.get_long() {
                assert!(long.contains(&format!("--{flag}")), "{name}: --{flag}");
            }
            // The text of -h itself is about the two of them.
            assert!(
                id == "help" || flat_text.contains(&told),
                "{name}: {id}: {told}"
            );
        }
        let short = fixture.bare(&[name, "-h"]).ok();
        check_text(name, &short);
        assert!(short.lines().count() <= long.lines().count(), "{name}");
    }
}

#[test]
fn a_summary_is_one_line_without_a_full_stop() {
    lodger_only!("the help texts");
    for verb in verbs() {
        let name = verb.get_name();
        let about = verb
            .get_about()
            .unwrap_or_else(|| panic!("{name}"))
            .to_string();
        assert!(
            about.len() <= 85 && !about.contains('\n'),
            "{name}: {about}"
        );
        assert!(!about.ends_with('.'), "{name}: {about}");
        assert!(about.starts_with(char::is_uppercase), "{name}: {about}");
    }
}

#[test]
fn the_first_help_lists_all_verbs_and_options() {
    lodger_only!("the help texts");
    let fixture = Fixture::new();
    let long = fixture.bare(&["--help"]).ok();
    check_text("lodger", &long);
    assert_eq!(fixture.bare(&["help"]).ok(), long);
    let short = fixture.bare(&["-h"]).ok();
    check_text("lodger -h", &short);
    for verb in verbs() {
        let line = format!("\n  {}", verb.get_name());
        assert!(long.contains(&line) && short.contains(&line), "{line}");
    }
    for option in [
        "--root <DIR>",
        "--log <TARGET>",
        "--log-format <FORMAT>",
        "--log-level <LEVEL>",
        "--debug",
        "--systemd-cgroup",
        "--cgroup-manager <MANAGER>",
        "--rootless <BOOL>",
        "--version",
    ] {
        assert!(long.contains(option), "{option}");
    }
    assert!(long.contains("Exit status:"));
}

#[test]
fn nothing_at_all_is_a_wrong_command_line() {
    lodger_only!("the help texts");
    let mut command = std::process::Command::new(crate::harness::runtime_binary());
    let ran = spawn(&mut command, b"").wait().exits(1);
    assert_eq!(ran.out, "");
    assert!(ran.err.contains("Usage: lodger"), "{ran:#?}");
}

#[test]
fn every_shell_gets_its_completion() {
    lodger_only!("completion");
    let fixture = Fixture::new();
    for (shell, sign) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef lodger"),
        ("fish", "complete -c lodger"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = fixture.bare(&["completion", shell]).ok();
        assert!(script.contains(sign), "{shell}: {script}");
        for word in ["kill", "no-such-verb"] {
            assert_eq!(script.contains(word), word == "kill", "{shell}: {word}");
        }
    }
    fixture.bare(&["completion", "tcsh"]).fails(1, "tcsh");
}

/// What bash offers after what was typed.
fn offered(script: &str, words: &[&str]) -> Vec<String> {
    let last = words.len() - 1;
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let program = format!(
        "{script}\nCOMP_WORDS=({})\nCOMP_CWORD={last}\n_lodger lodger '{}' '{}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words[last],
        words[last.saturating_sub(1)],
    );
    let mut bash = std::process::Command::new("/bin/bash");
    bash.args(["--norc", "-c", &program]);
    let out = spawn(&mut bash, b"").wait().ok();
    out.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_verbs_and_flags() {
    lodger_only!("completion");
    let script = Fixture::new().bare(&["completion", "bash"]).ok();
    let verbs = offered(&script, &["lodger", "de"]);
    assert_eq!(verbs, ["delete"]);
    let flags = offered(&script, &["lodger", "kill", "--a"]);
    assert_eq!(flags, ["--all"]);
    let formats = offered(&script, &["lodger", "list", "--format", ""]);
    assert_eq!(formats, ["table", "json"]);
}
