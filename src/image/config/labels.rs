//! Annotations: what an image says of itself (conversion.md, "Annotation Fields"), and none that a runtime acts upon.

use std::collections::BTreeMap;

use super::{Asked, ImageConfig};
use crate::cli::signal;
use crate::plan::{Note, controls};
use crate::sys::defence::{Defence, is_on};

/// The annotation with the signal that asks a container to end.
pub const STOP_SIGNAL: &str = "org.opencontainers.image.stopSignal";

/// How many labels a note names.
const NAMED: usize = 8;

/// `annotations`: those that follow from the config, those of its labels, which win, and the caller's.
pub(super) fn annotations(
    image: &ImageConfig,
    asked: &Asked,
    notes: &mut Vec<Note>,
) -> BTreeMap<String, String> {
    let config = &image.config;
    let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
    let implied = [
        ("org.opencontainers.image.os", Some(image.os.clone())),
        (
            "org.opencontainers.image.architecture",
            Some(image.architecture.clone()),
        ),
        ("org.opencontainers.image.variant", image.variant.clone()),
        (
            "org.opencontainers.image.os.version",
            image.os_version.clone(),
        ),
        (
            "org.opencontainers.image.os.features",
            list(&image.os_features),
        ),
        ("org.opencontainers.image.author", image.author.clone()),
        ("org.opencontainers.image.created", image.created.clone()),
        (
            "org.opencontainers.image.exposedPorts",
            list(&config.exposed_ports),
        ),
        (STOP_SIGNAL, config.stop_signal.clone()),
    ];
    let mut annotations: BTreeMap<String, String> = implied
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect();
    let mut steering = Vec::new();
    for (key, value) in &config.labels {
        // An image is not the one to say how its container is run (CVE-2026-53488).
        if controls(key) && is_on(Defence::Labels) {
            steering.push(key.as_str());
        } else {
            annotations.insert(key.clone(), value.clone());
        }
    }
    notes.extend((!steering.is_empty()).then(|| left_out(&steering)));
    annotations.extend(asked.annotations.iter().cloned());
    notes.extend(annotations.get(STOP_SIGNAL).and_then(|text| unknown(text)));
    annotations
}

fn left_out(steering: &[&str]) -> Note {
    let mut names: Vec<String> = steering
        .iter()
        .take(NAMED)
        .map(|key| format!("{key:?}"))
        .collect();
    if steering.len() > NAMED {
        names.push(format!("and {} more", steering.len() - NAMED));
    }
    Note::new(
        "/config/Labels",
        format!(
            "not made annotations, as runtimes or engines act upon such: {}",
            names.join(", ")
        ),
        "--annotation KEY=VALUE gives those that you want",
    )
}

fn unknown(signal: &str) -> Option<Note> {
    signal::parse(signal).err().map(|_| {
        Note::new(
            "/config/StopSignal",
            format!("`lodger kill` sends SIGTERM: there is no signal {signal:?}"),
            "name one in `lodger kill`",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::config::Execution;

    fn image(labels: &[(&str, &str)]) -> ImageConfig {
        let text = |text: &str| text.to_owned();
        ImageConfig {
            os: text("linux"),
            architecture: text("amd64"),
            created: Some(text("2015-10-31T22:22:56Z")),
            config: Execution {
                exposed_ports: vec![text("443"), text("80/tcp")],
                stop_signal: Some(text("SIGINT")),
                labels: labels.iter().map(|(k, v)| (text(k), text(v))).collect(),
                ..Execution::default()
            },
            ..ImageConfig::default()
        }
    }

    #[test]
    fn the_config_is_told_in_annotations_and_labels_win() {
        let mut notes = Vec::new();
        let image = image(&[
            ("org.opencontainers.image.os", "plan9"),
            ("a.b", "x\ny"),
            ("", ""),
        ]);
        let asked = Asked {
            annotations: vec![("run.oci.mine".to_owned(), "1".to_owned())],
            ..Asked::default()
        };
        let annotations = annotations(&image, &asked, &mut notes);
        let expected = [
            ("", ""),
            ("a.b", "x\ny"),
            ("org.opencontainers.image.architecture", "amd64"),
            ("org.opencontainers.image.created", "2015-10-31T22:22:56Z"),
            ("org.opencontainers.image.exposedPorts", "443,80/tcp"),
            ("org.opencontainers.image.os", "plan9"),
            ("org.opencontainers.image.stopSignal", "SIGINT"),
            ("run.oci.mine", "1"),
        ];
        let found: Vec<(&str, &str)> = annotations
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(notes, []);
    }

    #[test]
    fn no_label_steers_a_runtime() {
        let many: Vec<String> = (0..10)
            .map(|n| format!("run.oci.hooks.{n}\u{1b}"))
            .collect();
        let mut labels: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "x")).collect();
        labels.push(("org.systemd.property.ExecStart", "x"));
        let mut notes = Vec::new();
        let annotations = annotations(&image(&labels), &Asked::default(), &mut notes);
        assert!(
            !annotations.keys().any(|key| controls(key)),
            "{annotations:?}"
        );
        let [note] = notes.as_slice() else {
            panic!("{notes:?}")
        };
        assert!(
            note.reason.contains("org.systemd.property.ExecStart"),
            "{note:?}"
        );
        assert!(note.reason.contains("and 3 more"), "{note:?}");
        assert!(!note.reason.contains('\u{1b}'), "{note:?}");
    }

    #[test]
    fn an_unknown_stop_signal_is_kept_and_told() {
        for (signal, told) in [
            ("SIGRTMIN+3", false),
            ("15", false),
            ("SIGNO\u{1b}", true),
            ("0", true),
        ] {
            let mut image = image(&[]);
            image.config.stop_signal = Some(signal.to_owned());
            let mut notes = Vec::new();
            let annotations = annotations(&image, &Asked::default(), &mut notes);
            assert_eq!(annotations[STOP_SIGNAL], signal);
            assert_eq!(!notes.is_empty(), told, "{signal}: {notes:?}");
            assert!(!format!("{notes:?}").contains('\u{1b}'));
        }
    }
}
