use std::os::unix::net::UnixListener;

use super::*;

type Parsed = Vec<Result<PathBuf, String>>;

#[test]
fn addresses() {
    let path = |text: &str| Ok(PathBuf::from(text));
    let why = |text: &str| Err(text.to_owned());
    let cases: &[(&[u8], Parsed)] = &[
        (b"", vec![]),
        (b" ; ;", vec![]),
        (
            b"unix:path=/run/user/1000/bus",
            vec![path("/run/user/1000/bus")],
        ),
        (
            b"unix:path=/run/user/1000/bus,guid=0123456789abcdef0123456789abcdef",
            vec![path("/run/user/1000/bus")],
        ),
        (b"unix:guid=00,path=/b", vec![path("/b")]),
        (b"unix:path=/a;unix:path=/b", vec![path("/a"), path("/b")]),
        (
            b"unix:path=/tmp/a%20b%2Cc%3b%25",
            vec![path("/tmp/a b,c;%")],
        ),
        (b"unix:path=/tmp/%c3%a9", vec![path("/tmp/\u{e9}")]),
        (
            b"unix:path=/a%2",
            vec![why("\"unix:path=/a%2\" is badly escaped")],
        ),
        (
            b"unix:path=/a%zz",
            vec![why("\"unix:path=/a%zz\" is badly escaped")],
        ),
        (
            b"unix:path=/a%00b",
            vec![why("\"unix:path=/a%00b\" is badly escaped")],
        ),
        (b"unix:path=", vec![why("\"\" is not an absolute path")]),
        (
            b"unix:path=bus",
            vec![why("\"bus\" is not an absolute path")],
        ),
        (
            b"unix:abstract=/tmp/dbus-x",
            vec![why("\"unix:abstract=/tmp/dbus-x\" names no path")],
        ),
        (
            b"unix:runtime=yes",
            vec![why("\"unix:runtime=yes\" names no path")],
        ),
        (
            b"tcp:host=h,port=1;unix:path=/b",
            vec![
                why("\"tcp:host=h,port=1\" is not unix:path=\u{2026}"),
                path("/b"),
            ],
        ),
        (
            b"unixexec:path=/bin/sh",
            vec![why("\"unixexec:path=/bin/sh\" is not unix:path=\u{2026}")],
        ),
        (
            b"autolaunch:",
            vec![why("\"autolaunch:\" is not unix:path=\u{2026}")],
        ),
        (
            b"/run/user/1000/bus",
            vec![why("\"/run/user/1000/bus\" is not unix:path=\u{2026}")],
        ),
    ];
    for (address, expected) in cases {
        let shown = String::from_utf8_lossy(address);
        assert_eq!(parse_bus_address(address), *expected, "{shown}");
    }
}

#[test]
fn ids_outside() {
    let line = |inside, outside, count| MapLine {
        inside,
        outside,
        count,
    };
    let all = [line(0, 0, u32::MAX)];
    let rootless = [line(0, 1000, 1), line(1, 100_000, 65_536)];
    let cases: [(u32, &[MapLine], Option<u32>); 6] = [
        (1000, &all, Some(1000)),
        (0, &rootless, Some(1000)),
        (1, &rootless, Some(100_000)),
        (65_537, &rootless, None),
        (7, &[], None),
        (9, &[line(0, u32::MAX, 10)], None),
    ];
    for (uid, map, expected) in cases {
        assert_eq!(host_uid(uid, map), expected, "{uid} in {map:?}");
    }
}

#[test]
fn kill_user_processes() {
    let cases: &[(&[&str], Option<bool>)] = &[
        (&[], None),
        (&["[Login]\nNAutoVTs=6\n"], None),
        (&["[Login]\n#KillUserProcesses=no\n"], Some(false)),
        (&["[Login]\n# KillUserProcesses = yes\n"], Some(true)),
        (
            &["#KillUserProcesses=no", "KillUserProcesses=on"],
            Some(true),
        ),
        (
            &["KillUserProcesses=yes", "#KillUserProcesses=no"],
            Some(true),
        ),
        (
            &["KillUserProcesses=yes", "KillUserProcesses=0"],
            Some(false),
        ),
        (
            &["KillUserProcesses=yes", "KillUserProcesses=perhaps"],
            Some(true),
        ),
        (&["XKillUserProcesses=yes\nKillUserProcessesX=yes"], None),
    ];
    for (texts, expected) in cases {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(parse_kill_user_processes(&texts), *expected, "{texts:?}");
    }
}

/// The paths that would be looked at, in order, and what is not looked at.
fn order(address: &str, directory: Option<&str>, host_uid: Option<u32>) -> Vec<String> {
    let places = SessionPlaces {
        address: Some(OsStr::new(address)),
        runtime_directory: directory.map(OsStr::new),
        uid: 0,
        host_uid,
    };
    let shown = |found: Result<Candidate, String>| match found {
        Ok(found) if found.direct => format!("{} direct", found.path.display()),
        Ok(found) => found.path.display().to_string(),
        Err(why) => why,
    };
    candidates(places).into_iter().map(shown).collect()
}

#[test]
fn the_order_is_the_same_for_everybody() {
    let usual = ["/run/user/7/bus", "/run/user/7/systemd/private direct"];
    assert_eq!(order("", None, Some(7)), usual);
    assert_eq!(
        order("unix:path=/run/user/7/bus", Some("/run/user/7"), Some(7)),
        usual
    );
    assert_eq!(order("", Some(""), Some(7)), usual);
    assert_eq!(order("", None, None), [""; 0]);
    assert_eq!(
        order("unix:path=/a;tcp:;unix:path=/b", Some("/x"), Some(7)),
        [
            "/a",
            "$DBUS_SESSION_BUS_ADDRESS: \"tcp:\" is not unix:path=\u{2026}",
            "/b",
            "/x/bus",
            usual[0],
            usual[1]
        ]
    );
    let relative = "$XDG_RUNTIME_DIR: \"x\" is not an absolute path";
    assert_eq!(
        order("", Some("x"), Some(7)),
        [usual[0], usual[1], relative]
    );
}

#[test]
fn only_what_is_a_socket_of_the_callers_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let _bus = UnixListener::bind(at("bus")).unwrap();
    std::os::unix::fs::symlink(at("bus"), at("link")).unwrap();
    let text =
        ["file", "link", "gone", "bus"].map(|name| format!("unix:path={}", at(name).display()));
    let _file = rustix::fs::open(
        at("file"),
        rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    let own = rustix::process::geteuid().as_raw();
    let address = text.join(";");
    let look = |uid| {
        SessionReading::look(SessionPlaces {
            address: Some(OsStr::new(&address)),
            runtime_directory: Some(directory.path().as_os_str()),
            uid,
            host_uid: None,
        })
    };
    let from = "($DBUS_SESSION_BUS_ADDRESS)";
    let found = look(own);
    // The link comes first, and is the same socket.
    let expected = BusSocket {
        path: at("link"),
        direct: false,
    };
    assert_eq!(found.sockets, [expected]);
    let passed_over = [
        format!("{:?} {from} is not a socket", at("file")),
        format!("{:?} {from} is not there", at("gone")),
    ];
    assert_eq!(found.passed_over, passed_over);

    let stranger = look(own + 1);
    assert_eq!(stranger.sockets, []);
    let said = format!("{:?} {from} belongs to uid {own}", at("bus"));
    assert!(stranger.passed_over.contains(&said), "{stranger:?}");
    let text = serde_json::to_string(&stranger).unwrap();
    assert_eq!(
        serde_json::from_str::<SessionReading>(&text).unwrap(),
        stranger
    );
}

#[test]
fn a_name_that_is_a_path_does_not_linger() {
    assert!(!lingers("../../../.."));
    assert!(!lingers("/"));
}
