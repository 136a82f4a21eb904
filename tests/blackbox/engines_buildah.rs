//! buildah: images built with the runtime (`--isolation oci`).

use std::fs;

use crate::base::tidy;
use crate::engines_lab::{Engines, IMAGE, engines, shown};
use crate::harness::{Ran, spawn};

/// A working container, which goes with the test.
struct Working<'a> {
    engines: &'a Engines,
    name: String,
}

impl<'a> Working<'a> {
    fn from(engines: &'a Engines, image: &str) -> Working<'a> {
        let name = engines.name("working");
        let args = [&["from", "--name", &name], engines.without(), &[image]].concat();
        buildah(engines, &args).ok();
        Working { engines, name }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let runtime = self.engines.runtime.to_str().unwrap();
        let mut whole = vec!["run", "--runtime", runtime, "--isolation", "oci"];
        let network = !args.iter().any(|arg| arg.starts_with("--network"));
        whole.extend(network.then_some("--network=none"));
        let command = args.iter().position(|arg| !arg.starts_with("--")).unwrap();
        whole.extend(&args[..command]);
        whole.push(&self.name);
        whole.extend(&args[command..]);
        buildah(self.engines, &whole)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        tidy(|| drop(buildah(self.engines, &["rm", &self.name])));
    }
}

fn buildah(engines: &Engines, args: &[&str]) -> Ran {
    spawn(&mut engines.command(&[&["buildah"], args].concat()), b"").wait()
}

#[test]
fn commands_in_a_working_container() {
    engines(|e| {
        let working = Working::from(e, IMAGE);
        assert_eq!(
            working
                .run(&["sh", "-c", "echo made >/made; cat /made"])
                .ok(),
            "made\n"
        );
        assert_eq!(working.run(&["cat", "/made"]).ok(), "made\n");
        working.run(&["sh", "-c", "exit 7"]).exits(7);
        let ran = working.run(&["nosuchprogram"]);
        assert!(
            ran.code != 0 && ran.err.contains("not found in $PATH"),
            "{ran:#?}"
        );
        let out = working.run(&[
            "--user=1:2",
            "--workingdir=/tmp",
            "--env=A=b",
            "--hostname=named",
            "sh",
            "-c",
            "id -u; id -g; pwd; echo $A; hostname",
        ]);
        assert_eq!(out.ok(), "1\n2\n/tmp\nb\nnamed\n");
        let out = working
            .run(&[
                "--cap-add=CAP_NET_RAW",
                "--network=host",
                "sh",
                "-c",
                "grep CapBnd /proc/self/status; ls /sys/class/net | wc -l",
            ])
            .ok();
        assert!(
            !out.contains("0000000000000000") && !out.ends_with("\n0\n"),
            "{out}"
        );
    });
}

#[test]
fn an_image_from_nothing() {
    engines(|e| {
        let working = Working::from(e, "scratch");
        let root = e.path("root");
        buildah(
            e,
            &[
                "copy",
                "--quiet",
                &working.name,
                root.to_str().unwrap(),
                "/",
            ],
        )
        .ok();
        working.run(&["sh", "-c", "echo first >/layer"]).ok();
        let image = format!("localhost/{}", e.name("image"));
        buildah(e, &["config", "--cmd", "cat /layer", &working.name]).ok();
        buildah(e, &["commit", "--quiet", &working.name, &image]).ok();
        assert_eq!(shown(|| e.run(&["--rm", &image])).ok(), "first\n");
        buildah(e, &["rmi", &image]).ok();
    });
}

#[test]
fn a_containerfile() {
    engines(|e| {
        let context = e.directory();
        let file = format!(
            "FROM {IMAGE}\nRUN echo one >/one\nWORKDIR /work\nUSER 1\nRUN --mount=type=tmpfs,target=/scratch pwd && id -u && cat /one && stat -f -c %T /scratch\n"
        );
        fs::write(context.join("Containerfile"), file).unwrap();
        let runtime = e.runtime.to_str().unwrap();
        let image = format!("localhost/{}", e.name("built"));
        let args = [
            &[
                "bud",
                "--runtime",
                runtime,
                "--isolation",
                "oci",
                "--network",
                "none",
                "--tag",
                &image,
            ],
            e.without(),
            &[context.to_str().unwrap()],
        ]
        .concat();
        let ran = buildah(e, &args);
        assert_eq!(ran.code, 0, "{ran:#?}");
        assert!(ran.out.contains("\n/work\n1\none\ntmpfs\n"), "{ran:#?}");
        let ran = shown(|| e.run(&["--rm", &image, "cat", "/one"]));
        assert_eq!(ran.ok(), "one\n");
        buildah(e, &["rmi", &image]).ok();
    });
}
