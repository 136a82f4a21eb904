//! podman's own checkpoint, which it lets only root ask for.

use crate::engines_lab::{IMAGE, engines};

#[test]
fn podman_asks_for_root_before_it_asks_the_runtime() {
    engines(|e| {
        let name = e.name("checkpoint");
        e.run(&["-d", "--name", &name, IMAGE, "sleep", "600"]).ok();
        for verb in ["checkpoint", "restore"] {
            let ran = e.podman(&["container", verb, &name]);
            assert_ne!(ran.code, 0, "{ran:#?}");
            assert!(ran.err.contains("requires root"), "{ran:#?}");
        }
        let ran = e.podman(&["inspect", "--format", "{{.State.Status}}", &name]);
        assert_eq!(ran.ok(), "running\n");
    });
}
