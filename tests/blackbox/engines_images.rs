//! Images that podman saves, in each of its formats.

use crate::engines_lab::engines;
use crate::image_lab::images_or_skip;

/// podman unpacks each layer alone, and packs it again.
#[test]
fn what_podman_saves_is_imported() {
    engines(|e| {
        let images = images_or_skip!();
        if e.with_peer() {
            return;
        }
        images.import(&images.made("debian"), "debian");
        let layers = images.layers("debian");
        const NAME: &str = "localhost/debian:1";
        let archive = images.word("loaded.tar");
        images.skopeo(&[
            &images.made("debian"),
            &format!("oci-archive:{archive}:{NAME}"),
        ]);
        e.podman(&["load", "--quiet", "-i", &archive]).ok();
        let formats = ["oci-archive", "docker-archive", "oci-dir"];
        for format in formats {
            let saved = images.word(format);
            e.podman(&["save", "--quiet", "--format", format, "-o", &saved, NAME])
                .ok();
            images.lodger(&["image", "remove", "debian"]).ok();
            images.lodger(&["image", "gc"]).ok();
            let kind = format.replace("oci-dir", "oci");
            images.import(&format!("{kind}:{saved}"), "debian");
            assert_eq!(images.layers("debian"), layers, "{format}");
        }
        e.podman(&["rmi", NAME]).ok();
    });
}
