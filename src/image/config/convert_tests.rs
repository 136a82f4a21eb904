//! Whole conversions.

use std::path::{Path, PathBuf};

use super::*;
use crate::bundle::Bundle;
use crate::image::config::{AskedMount, Execution};

struct Files;

impl ImageFiles for Files {
    fn read(&self, path: &Path, _limit: usize) -> Result<Option<Vec<u8>>> {
        Ok(match path.to_str() {
            Some("/etc/passwd") => Some(b"root:x:0:0::/root:\nwww:x:33:33::/:\n".to_vec()),
            Some("/etc/group") => Some(b"www:x:33:\nssl:x:101:www\n".to_vec()),
            _ => None,
        })
    }
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn image() -> ImageConfig {
    let architecture = match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    ImageConfig {
        os: text("linux"),
        architecture: text(architecture),
        config: Execution {
            cmd: vec![text("sh")],
            ..Execution::default()
        },
        ..ImageConfig::default()
    }
}

fn asked() -> Asked {
    Asked {
        image: text("debian"),
        id: text("t_1.+x"),
        ..Asked::default()
    }
}

fn converted(image: &ImageConfig, asked: &Asked) -> Converted {
    let converted = convert(image, asked, &Files).unwrap();
    let parsed = Bundle::parse(PathBuf::from("/b"), converted.text().into()).unwrap();
    assert_eq!(parsed.warnings, []);
    converted
}

fn refusal(image: &ImageConfig, asked: &Asked) -> String {
    let message = convert(image, asked, &Files).unwrap_err().message();
    assert!(
        message.starts_with("cannot use image \"debian\": "),
        "{message}"
    );
    message
}

#[test]
fn an_image_that_says_little_gets_the_defaults() {
    let Converted {
        config,
        notes,
        directories,
    } = converted(&image(), &asked());
    assert_eq!((notes, directories), (vec![], vec![]));
    let process = &config["process"];
    assert_eq!(process["args"], json!(["sh"]));
    assert_eq!(process["cwd"], "/");
    assert_eq!(process["user"], json!({"uid": 0, "gid": 0}));
    assert_eq!(process["terminal"], false);
    assert_eq!(process["noNewPrivileges"], false);
    assert_eq!(process.get("rlimits"), None);
    assert_eq!(
        process["capabilities"]["effective"]
            .as_array()
            .unwrap()
            .len(),
        11
    );
    assert_eq!(config["root"], json!({"path": "rootfs", "readonly": false}));
    assert_eq!(config["hostname"], "t1.x");
    let of_template: Value = serde_json::from_str(template()).unwrap();
    for same in ["mounts", "linux"] {
        assert_eq!(config[same], of_template[same], "{same}");
    }
}

#[test]
fn an_image_that_says_all_is_followed() {
    let mut image = image();
    image.config = Execution {
        user: text("www"),
        env: vec![text("A=\"b\"\n"), text("PATH=/p")],
        entrypoint: vec![text("/e"), text("-x")],
        cmd: vec![text("y")],
        volumes: vec![text("/data")],
        working_dir: text("/w"),
        reserved: vec!["Memory"],
        ..Execution::default()
    };
    let Converted {
        config,
        notes,
        directories,
    } = converted(&image, &asked());
    let process = &config["process"];
    assert_eq!(process["args"], json!(["/e", "-x", "y"]));
    assert_eq!(process["env"], json!(["A=\"b\"\n", "PATH=/p"]));
    assert_eq!(process["cwd"], "/w");
    assert_eq!(
        process["user"],
        json!({"uid": 33, "gid": 33, "additionalGids": [101]})
    );
    assert_eq!(process["capabilities"].as_object().unwrap().len(), 1);
    assert_eq!(directories, ["/data"]);
    let [note] = notes.as_slice() else {
        panic!("{notes:?}")
    };
    assert!(note.reason.ends_with(": Memory"), "{note:?}");
}

#[test]
fn the_caller_has_the_last_word() {
    let mut image = image();
    image.config.user = text("nobody");
    image.config.working_dir = text("relative");
    image.config.volumes = vec![text("/data")];
    let asked = Asked {
        args: vec![text("ls"), text("-l")],
        user: Some(text("7:8")),
        cwd: Some(text("/tmp")),
        tty: true,
        read_only: true,
        no_new_privileges: true,
        hostname: Some(text("a-b.c")),
        network: Network::Host {
            files: vec![(PathBuf::from("/run/resolv"), text("/etc/resolv.conf"))],
        },
        mounts: vec![AskedMount {
            source: Some(PathBuf::from("/src")),
            destination: text("/dst"),
            options: vec![text("rbind"), text("rro")],
        }],
        ..asked()
    };
    let Converted { config, notes, .. } = converted(&image, &asked);
    let process = &config["process"];
    assert_eq!(process["args"], json!(["ls", "-l"]));
    assert_eq!(process["cwd"], "/tmp");
    assert_eq!(process["user"], json!({"uid": 7, "gid": 8}));
    assert_eq!(process["terminal"], true);
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(config["root"]["readonly"], true);
    assert_eq!(config["hostname"], "a-b.c");
    let namespaces = config["linux"]["namespaces"].to_string();
    assert!(namespaces.contains("cgroup") && !namespaces.contains("network"));
    let mounts = config["mounts"].as_array().unwrap();
    let places: Vec<&str> = mounts
        .iter()
        .filter_map(|m| m["destination"].as_str())
        .collect();
    assert_eq!(
        places[5..],
        [
            "/sys",
            "/sys/fs/cgroup",
            "/etc/resolv.conf",
            "/data",
            "/dst"
        ]
    );
    assert_eq!(mounts[5]["type"], "bind");
    assert_eq!(mounts[9]["options"], json!(["rbind", "rro"]));
    assert_eq!(notes.len(), 1, "{notes:?}");
}

#[test]
fn groups_are_left_out_where_none_can_be_set() {
    let mut image = image();
    image.config.user = text("www");
    let asked = Asked {
        setgroups: false,
        ..asked()
    };
    let Converted { config, notes, .. } = converted(&image, &asked);
    assert_eq!(config["process"]["user"], json!({"uid": 33, "gid": 33}));
    assert!(
        notes[0].reason.contains("supplementary groups"),
        "{notes:?}"
    );
}

#[test]
fn another_processor_is_told_and_another_system_refused() {
    let mut image = image();
    image.architecture = text("mips\u{1b}");
    let notes = converted(&image, &asked()).notes;
    assert!(
        notes[0].reason.contains("mips") && !notes[0].reason.contains('\u{1b}'),
        "{notes:?}"
    );
    image.os = text("windows");
    assert!(refusal(&image, &asked()).contains("/os is \"windows\""));
}

#[test]
fn what_cannot_be_is_refused() {
    let with = |change: &dyn Fn(&mut ImageConfig, &mut Asked)| {
        let (mut image, mut asked) = (image(), asked());
        change(&mut image, &mut asked);
        refusal(&image, &asked)
    };
    let told = with(&|image, _| image.config.user = text("nobody"));
    assert!(
        told.contains("the user \"nobody\": there is no user \"nobody\" in its /etc/passwd"),
        "{told}"
    );
    let told = with(&|image, _| image.config.user = text("4294967296"));
    assert!(told.contains("4294967296 is no id"), "{told}");
    let told = with(&|_, asked| asked.user = Some(String::new()));
    assert!(
        told.contains("the user \"\": one half of it is empty"),
        "{told}"
    );
    for path in ["relative", "/a/../b", "/.."] {
        let told = with(&|image, _| image.config.working_dir = text(path));
        assert!(told.contains("/config/WorkingDir: "), "{told}");
    }
    let told = with(&|_, asked| asked.cwd = Some(String::new()));
    assert!(told.contains("-w: \"\""), "{told}");
    for name in ["", "a_b", "a b", "\u{e4}", &"a".repeat(65)] {
        let told = with(&|_, asked| asked.hostname = Some(text(name)));
        assert!(told.contains("no host name"), "{told}");
    }
    let told = with(&|image, _| image.config.cmd.clear());
    assert!(told.contains("it says no program"), "{told}");
    let told = with(&|image, _| image.config.env.push(text("HOME")));
    assert!(told.contains("/config/Env/0"), "{told}");
}

#[test]
fn the_host_name_is_what_the_id_can_give() {
    for (id, name) in [
        ("", "lodger"),
        ("___", "lodger"),
        ("web", "web"),
        (&"a".repeat(90), &"a".repeat(64)),
    ] {
        let asked = Asked {
            id: text(id),
            ..Asked::default()
        };
        assert_eq!(hostname(&asked).as_deref(), Ok(name));
    }
}
