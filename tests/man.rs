//! The manual pages: one for lodger and one for each verb, with every option that the verb has.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "test code: it reads what was written"
)]

#[path = "../helpers/man.rs"]
#[expect(dead_code, reason = "its main is the program's")]
mod man;

#[test]
fn there_is_a_page_for_each_verb_with_each_of_its_options() {
    let directory = tempfile::tempdir().unwrap();
    let names = man::write(directory.path()).unwrap();
    let command = lodger::cli::command();
    let verbs: Vec<&clap::Command> = command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .collect();
    assert!(verbs.len() >= 15, "{names:?}");
    assert_eq!(names.len(), verbs.len() + 1);
    for verb in verbs {
        let name = format!("lodger-{}.1", verb.get_name());
        assert!(names.contains(&name), "{name}");
        let text = std::fs::read_to_string(directory.path().join(&name)).unwrap();
        assert!(text.contains(".TH lodger-"), "{name}: {text}");
        let shown = verb.get_arguments().filter(|option| !option.is_hide_set());
        for option in shown.filter_map(clap::Arg::get_long) {
            // roff writes a hyphen that may be copied as \-.
            let written = format!("\\-\\-{}", option.replace('-', "\\-"));
            assert!(text.contains(&written), "{name} has no {written}: {text}");
        }
    }
    assert!(names.contains(&"lodger.1".to_owned()));
    let kill = std::fs::read_to_string(directory.path().join("lodger-kill.1")).unwrap();
    for part in [
        ".SH EXAMPLES",
        ".SH EXIT STATUS",
        "lodger kill \\-a web KILL",
    ] {
        assert!(kill.contains(part), "no {part:?} in {kill}");
    }
}
