//! What the options mean, and what they refuse.

use std::io::Write;

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[arg(long)]
    bundle: Option<String>,
    #[arg(long)]
    config: Option<String>,
    #[command(flatten)]
    image: ImageRun,
}

fn parse(options: &[&str]) -> std::result::Result<ImageRun, String> {
    let words = ["x", "--image", "i"].iter().chain(options);
    Line::try_parse_from(words)
        .map(|line| line.image)
        .map_err(|error| error.to_string())
}

fn asked(options: &[&str]) -> Result<Asked> {
    parse(options).unwrap().asked("c", &[], false, true)
}

fn refusal(options: &[&str]) -> String {
    asked(options).unwrap_err().to_string()
}

#[test]
fn nothing_asked_is_what_the_image_says() {
    let expected = Asked {
        image: "i".to_owned(),
        id: "c".to_owned(),
        ..Asked::default()
    };
    assert_eq!(asked(&[]), Ok(expected));
}

#[test]
fn options_need_an_image() {
    for options in [
        &["-e", "A=1"][..],
        &["--env-file", "f"],
        &["-u", "1"],
        &["-w", "/"],
        &["--entrypoint", "x"],
        &["-v", "/:/x"],
        &["--tmpfs", "/x"],
        &["--read-only"],
        &["--network", "host"],
        &["--hostname", "x"],
        &["--annotation", "a=b"],
        &["--cap-add", "KILL"],
        &["--cap-drop", "KILL"],
        &["--no-new-privileges"],
        &["--tmpfs-upper"],
        &["--keep-changes"],
        &["--copy"],
    ] {
        let words = ["x"].iter().chain(options);
        let error = Line::try_parse_from(words).unwrap_err().to_string();
        assert!(error.contains("--image <NAME>"), "{options:?}: {error}");
        assert!(parse(options).is_ok(), "{options:?}");
    }
    for options in [["--bundle", "b"], ["--config", "c"]] {
        assert!(parse(&options).unwrap_err().contains("cannot be used with"));
    }
}

#[test]
fn variables_are_given_taken_or_taken_out() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"# no\n\n  A=1 # yes\nNO_SUCH_VARIABLE\nB=\n")
        .unwrap();
    let file = file.path();
    let path = std::env::var("PATH").unwrap();
    let asked = asked(&[
        "-e",
        "A=2=3",
        "-e",
        "PATH",
        "--env-file",
        file.to_str().unwrap(),
    ]);
    let set = |name: &str, value: &str| Variable::Set(name.to_owned(), value.to_owned());
    let expected = [
        set("A", "1 # yes"),
        Variable::Unset("NO_SUCH_VARIABLE".to_owned()),
        set("B", ""),
        set("A", "2=3"),
        set("PATH", &path),
    ];
    assert_eq!(asked.unwrap().variables, expected);
    for text in ["", "=x", "A B=1", "A\n=1"] {
        assert!(
            refusal(&["-e", text]).contains("no name of a variable"),
            "{text:?}"
        );
    }
    assert!(refusal(&["--env-file", "/dev/zero"]).contains("--env-file: cannot read"));
    assert!(refusal(&["--env-file", "/nonexistent"]).contains("ENOENT"));
}

#[test]
fn entry_points() {
    for (text, words) in [
        ("", &[][..]),
        ("/bin/sh", &["/bin/sh"]),
        ("a b", &["a b"]),
        (r#"["sh", "-c"]"#, &["sh", "-c"]),
        ("[]", &[]),
    ] {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(entrypoint(text), Ok(words), "{text}");
    }
    for text in ["[", "[1]", "[\"a\"] x"] {
        assert!(entrypoint(text).is_err(), "{text}");
    }
}

#[test]
fn volumes_are_directories_of_the_host() {
    let mount = |text: &str| asked(&["-v", text]).unwrap().mounts.remove(0);
    let with = |options: &str| mount(&format!("/:/d:{options}")).options.join(",");
    assert_eq!(mount("/../.:/d/e").source, Some("/".into()));
    assert_eq!(
        mount("./src:/d").source,
        Some(std::fs::canonicalize("src").unwrap())
    );
    assert_eq!(mount(".:/d").destination, "/d");
    for (options, expected) in [
        ("", "rbind,rprivate,nosuid,nodev"),
        ("ro", "rbind,rprivate,nosuid,nodev,rro"),
        ("ro,rw", "rbind,rprivate,nosuid,nodev"),
        ("bind,slave,suid,dev,noexec", "bind,slave,noexec"),
        (
            "rbind,rshared,noatime",
            "rbind,rshared,nosuid,nodev,noatime",
        ),
    ] {
        assert_eq!(with(options), expected, "{options}");
    }
    for (text, told) in [
        ("data:/d", "no volumes by name"),
        ("/d", "without a directory of the host"),
        (":/d", "SRC is empty"),
        ("/:/d:ro:x", "too many parts"),
        ("/:d", "nothing can be mounted at \"d\""),
        ("/:/", "nothing can be mounted at \"/\""),
        ("/:/a/../b", "nothing can be mounted at"),
        ("/:", "nothing can be mounted at"),
        ("/no/such:/d", "make it first"),
        ("/:/d:Z", "are not relabelled"),
        ("/:/d:U", "there is no option \"U\""),
        ("/:/d:\u{1b}", "there is no option \"\\u{1b}\""),
    ] {
        assert!(
            refusal(&["-v", text]).contains(told),
            "{text}: {}",
            refusal(&["-v", text])
        );
    }
}

#[test]
fn a_tmpfs_has_its_own_options() {
    let mounts = asked(&["--tmpfs", "/t:size=1m,mode=700", "--tmpfs", "/u"])
        .unwrap()
        .mounts;
    assert_eq!(
        mounts[0].options,
        ["nosuid", "nodev", "size=1m", "mode=700"]
    );
    assert_eq!(
        (mounts[1].destination.as_str(), &mounts[1].source),
        ("/u", &None)
    );
    assert!(refusal(&["--tmpfs", "t"]).contains("--tmpfs: \"t\""));
}

#[test]
fn annotations_have_keys() {
    let asked = asked(&["--annotation", "a.b=c=d", "--annotation", "e="]).unwrap();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(asked.annotations, [pair("a.b", "c=d"), pair("e", "")]);
    for text in ["", "a", "=b"] {
        assert!(
            refusal(&["--annotation", text]).contains("is not KEY=VALUE"),
            "{text}"
        );
    }
}

#[test]
fn the_writable_layer() {
    for (text, size) in [
        ("--tmpfs-upper", Some(0)),
        ("--tmpfs-upper=64m", Some(64 << 20)),
        ("--copy", None),
    ] {
        assert_eq!(parse(&[text]).unwrap().upper().tmpfs_upper, size, "{text}");
    }
    for wrong in [
        &["--tmpfs-upper=x"][..],
        &["--tmpfs-upper=-1"],
        &["--tmpfs-upper", "--keep-changes"],
        &["--tmpfs-upper", "--copy"],
        &["--read-only", "--keep-changes"],
        &["--read-only", "--tmpfs-upper"],
    ] {
        assert!(parse(wrong).is_err(), "{wrong:?}");
    }
}
