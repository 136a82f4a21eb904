//! Docker's client, answered by podman: what it asks for is what a Docker daemon would be asked.

use std::path::Path;

use crate::engines_lab::{Engines, IMAGE, engines, shown};
use crate::harness::{Ran, Running, skip, spawn, wait_for};

/// A podman that answers on a socket, which ends with the test.
struct Service<'a> {
    engines: &'a Engines,
    host: String,
    _daemon: Running,
}

impl<'a> Service<'a> {
    fn start(engines: &'a Engines) -> Service<'a> {
        let socket = engines.socket_directory().join("api.sock");
        let host = format!("unix://{}", socket.display());
        let mut command = engines.podman_command(&["system", "service", "--time", "0", &host]);
        let service = Service {
            engines,
            _daemon: spawn(&mut command, b""),
            host,
        };
        wait_for("the service", || {
            (service.docker(&["version"]).code == 0).then_some(())
        });
        service
    }

    fn docker(&self, args: &[&str]) -> Ran {
        let client = ["docker", "--host", &self.host];
        spawn(&mut self.engines.command(&[&client, args].concat()), b"").wait()
    }
}

#[test]
fn containers_come_and_go() {
    engines(|e| {
        if !["/usr/bin/docker", "/usr/local/bin/docker"]
            .iter()
            .any(|p| Path::new(p).exists())
        {
            skip!("Docker's client is not installed");
        }
        let service = Service::start(e);
        let run = |args: &[&str]| {
            let options = [&["run", "--network", "none"], e.without(), args].concat();
            service.docker(&options)
        };
        let ran = shown(|| run(&["--rm", IMAGE, "echo", "hi"]));
        assert_eq!(ran.ok(), "hi\n");
        // With --rm podman 4.3 may forget the exit code before the client asks.
        let (failing, missing) = (e.name("failing"), e.name("missing"));
        run(&["--name", &failing, IMAGE, "sh", "-c", "exit 7"]).exits(7);
        let ran = run(&["--name", &missing, IMAGE, "nosuchprogram"]);
        assert_ne!(ran.code, 0, "{ran:#?}");
        let name = e.name("docker");
        run(&["-d", "--name", &name, IMAGE, "sleep", "600"]).ok();
        let ran = shown(|| service.docker(&["exec", &name, "hostname"]));
        assert_eq!(ran.ok().trim().len(), 12);
        service.docker(&["kill", &name]).ok();
        assert_eq!(service.docker(&["wait", &name]).ok(), "137\n");
        service.docker(&["rm", &name]).ok();
    });
}
