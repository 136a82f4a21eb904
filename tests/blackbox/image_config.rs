//! Configs of images, converted and run: the program finds what the image and the caller say.

use std::fs;
use std::path::{Path, PathBuf};

use lodger::error::{Error, Result};
use lodger::image::config::{
    Asked, AskedMount, Converted, ImageConfig, ImageFiles, Network, Variable, convert,
};
use serde_json::{Value, json};

use crate::harness::{Fixture, Ran, lodger_only};

/// The root filesystem of a test, which nobody changes.
struct Files(PathBuf);

impl ImageFiles for Files {
    fn read(&self, path: &Path, limit: usize) -> Result<Option<Vec<u8>>> {
        let path = self.0.join(path.strip_prefix("/").unwrap());
        match fs::read(&path) {
            Ok(content) if content.len() > limit => Err(Error::new("too large")),
            Ok(content) => Ok(Some(content)),
            Err(_) => Ok(None),
        }
    }
}

/// A root filesystem with users, groups and a volume with something in it.
fn fixture() -> Fixture {
    let fixture = Fixture::with_own_root();
    let root = fixture.rootfs();
    let passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:w:/home/www:/bin/sh\n77:x:0:0::/:\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    let group = "root:x:0:\nadm:x:4:www\nwww:x:34:\nssl:x:101:other,www\n";
    fs::write(root.join("etc/group"), group).unwrap();
    fs::create_dir(root.join("data")).unwrap();
    fs::write(root.join("data/of-image"), "seed").unwrap();
    fixture
}

fn converted(fixture: &Fixture, config: &Value, asked: &Asked) -> Converted {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let text = json!({"os": "linux", "architecture": architecture, "config": config}).to_string();
    let image = ImageConfig::parse(text.as_bytes()).unwrap();
    convert(&image, asked, &Files(fixture.rootfs())).unwrap()
}

/// Runs what the image's `config` and `asked` make together.
fn run(fixture: &mut Fixture, config: &Value, asked: &Asked) -> Ran {
    fixture.config = converted(fixture, config, asked).config;
    fixture.run()
}

/// A shell script in place of `Cmd`.
fn sh(script: &str) -> Asked {
    Asked {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        id: "c".to_owned(),
        ..Asked::default()
    }
}

fn bind(source: &Path, destination: &str, option: &str) -> AskedMount {
    AskedMount {
        source: Some(source.to_owned()),
        destination: destination.to_owned(),
        options: vec!["rbind".to_owned(), option.to_owned()],
    }
}

#[test]
fn entry_point_arguments_and_environment_are_the_images() {
    lodger_only!("the conversion is lodger's own");
    let mut fixture = fixture();
    let image = json!({
        "Entrypoint": ["/bin/sh", "-c", "echo $0 $1 $2 \"$A\" $B $PATH $HOME; pwd; hostname"],
        "Cmd": ["zero", "one two"], "Env": ["PATH=/bin", "A=a  b\nc", "B=image"], "WorkingDir": "/tmp/made/for/it"
    });
    let asked = Asked {
        id: "web_1".to_owned(),
        ..Asked::default()
    };
    let out = run(&mut fixture, &image, &asked).ok();
    assert_eq!(
        out,
        "zero one two a  b\nc image /bin /root\n/tmp/made/for/it\nweb1\n"
    );
    let asked = Asked {
        args: vec!["x".to_owned()],
        variables: vec![
            Variable::Set("B".to_owned(), "mine".to_owned()),
            Variable::Unset("A".to_owned()),
        ],
        cwd: Some("/".to_owned()),
        hostname: Some("other".to_owned()),
        ..asked
    };
    let out = run(&mut fixture, &image, &asked).ok();
    assert_eq!(out, "x  mine /bin /root\n/\nother\n");
}

#[test]
fn users_are_those_of_the_image() {
    lodger_only!("the conversion is lodger's own");
    let mut fixture = fixture();
    let mut asked = sh(
        "id -u; id -g; id -G; echo $HOME; grep -E 'Cap(Inh|Prm|Eff|Amb)|NoNew' /proc/self/status",
    );
    let told = |fixture: &mut Fixture, user: &str, asked: &Asked| {
        let out = run(fixture, &json!({"User": user}), asked).ok();
        out.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let none = "CapInh: 0000000000000000 CapPrm: 0000000000000000 CapEff: 0000000000000000 CapAmb: 0000000000000000";
    assert_eq!(
        told(&mut fixture, "www", &asked),
        format!("33 34 34 4 101 /home/www {none} NoNewPrivs: 0")
    );
    assert_eq!(
        told(&mut fixture, "33:adm", &asked),
        format!("33 4 4 /home/www {none} NoNewPrivs: 0")
    );
    // A number, although the image has a user of that name who is root.
    let as_77 = format!("77 0 0 / {none} NoNewPrivs: 0");
    assert_eq!(told(&mut fixture, "77", &asked), as_77);
    let as_root = told(&mut fixture, "", &asked);
    assert!(
        as_root.starts_with("0 0 0 /root CapInh: 0000000000000000 CapPrm: 00000000800405fb"),
        "{as_root}"
    );
    asked.user = Some("77:0".to_owned());
    asked.no_new_privileges = true;
    let with = told(&mut fixture, "www", &asked);
    assert_eq!(with, as_77.replace("NoNewPrivs: 0", "NoNewPrivs: 1"));
}

#[test]
fn volumes_and_binds_are_where_they_should_be() {
    lodger_only!("the conversion is lodger's own");
    let mut fixture = fixture();
    let source = fixture.path("source");
    fs::create_dir_all(source.join("inner")).unwrap();
    fs::write(source.join("file"), "mine").unwrap();
    let image = json!({"Volumes": {"/data": {}}});
    let mut asked = sh(
        "cat /data/of-image /src/file; echo new >/data/new; cat /data/new; echo no >/src/no; echo yes >/src/inner/yes",
    );
    asked.mounts = vec![
        bind(&source.join("inner"), "/src/inner", "rw"),
        bind(&source, "/src", "rro"),
    ];
    let ran = run(&mut fixture, &image, &asked).exits(0);
    assert_eq!(ran.out, "seedminenew\n");
    assert!(ran.err.contains("Read-only file system"), "{ran:#?}");
    assert!(source.join("inner/yes").exists() && !source.join("no").exists());
    // In the root filesystem: nothing is lost, and nothing was mounted.
    assert!(fixture.rootfs().join("data/new").exists());
    fs::remove_file(fixture.rootfs().join("data/new")).unwrap();
    asked.read_only = true;
    asked.args[2] = "cat /data/of-image; echo new >/data/new; cat /data/new; echo x >/x".to_owned();
    let ran = run(&mut fixture, &image, &asked).exits(1);
    assert_eq!(ran.out, "seednew\n");
    assert!(ran.err.contains("/x: Read-only file system"), "{ran:#?}");
    assert!(!fixture.rootfs().join("data/new").exists());
}

#[test]
fn there_is_no_network_or_the_hosts() {
    lodger_only!("the conversion is lodger's own");
    let mut fixture = fixture();
    let script = "readlink /proc/self/ns/net; ls /sys/class/net; ls /sys/fs/cgroup >/dev/null && cat /etc/resolv.conf; echo x >>/etc/resolv.conf";
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    let own = own.to_str().unwrap();
    let resolv = fixture.path("resolv");
    fs::write(&resolv, "nameserver 192.0.2.1\n").unwrap();
    let mut asked = sh(script);
    let ran = run(&mut fixture, &json!({}), &asked);
    assert!(ran.out.starts_with("net:["), "{ran:#?}");
    assert!(
        ran.out.ends_with("]\nlo\n") && !ran.out.contains(own),
        "{ran:#?}"
    );
    fs::remove_file(fixture.rootfs().join("etc/resolv.conf")).unwrap();
    asked.network = Network::Host {
        files: vec![(resolv, "/etc/resolv.conf".to_owned())],
    };
    let ran = run(&mut fixture, &json!({}), &asked).exits(1);
    assert!(ran.out.starts_with(own), "{ran:#?}");
    assert!(ran.out.ends_with("nameserver 192.0.2.1\n"), "{ran:#?}");
    assert!(ran.err.contains("Read-only file system"), "{ran:#?}");
}

#[test]
fn labels_are_told_and_steer_nothing() {
    lodger_only!("the conversion is lodger's own");
    let mut fixture = fixture();
    let image = json!({"Labels": {
        "org.systemd.property.CPUQuotaPerSecUSec": "uint64 1", "run.oci.keep_original_groups": "1", "a.b": "c\nd",
        "org.opencontainers.image.os": "mine"
    }, "StopSignal": "SIGHUP"});
    let result = converted(
        &fixture,
        &image,
        &sh("trap 'exit 71' HUP; while :; do sleep 0.1; done"),
    );
    assert_eq!(result.notes.len(), 1, "{:?}", result.notes);
    fixture.config = result.config;
    fixture.runtime(&["run", "-d", "--keep", "c"]).ok();
    let annotations = &fixture.state("c")["annotations"];
    let told = annotations.as_object().unwrap();
    assert_eq!(told["a.b"], "c\nd");
    assert_eq!(told["org.opencontainers.image.os"], "mine");
    assert_eq!(told["org.opencontainers.image.stopSignal"], "SIGHUP");
    assert!(
        !told
            .keys()
            .any(|key| key.starts_with("run.") || key.starts_with("org.systemd")),
        "{told:?}"
    );
}
