//! The images of a checkpoint that are rewritten, and its lodger.json: only what is to be another is.
//!
//! The first byte says which of them the rest is. prost reads the images before and after: it has another reader's words for them.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use lodger::checkpoint::image::{Ids, Manifest, core, manifest, mounts};
use lodger::error::Result;
use lodger::plan::IdMapping;
use lodger_fuzz::{assert_lines_printable, mutate_json};
use prost::Message;

const MACHINE: &str = "x86_64";

/// The container's ids, those of the host, and how many.
const MAP: [(u32, u32, u32); 3] = [(0, 1001, 1), (1, 100_000, 4), (4_294_967_290, 5, 3)];

/// `mnt_entry` of CRIU's mnt.proto, as far as it matters.
#[derive(Clone, PartialEq, Message)]
struct Mount {
    #[prost(uint64, tag = "1")]
    fstype: u64,
    #[prost(bytes, tag = "7")]
    mountpoint: Vec<u8>,
    #[prost(bytes, tag = "9")]
    options: Vec<u8>,
    #[prost(uint64, repeated, packed = "false", tag = "13")]
    external: Vec<u64>,
    #[prost(bytes, optional, tag = "18")]
    key: Option<Vec<u8>>,
}

/// `core_entry` of CRIU's core.proto.
#[derive(Clone, PartialEq, Message)]
struct Core {
    #[prost(message, optional, tag = "5")]
    thread: Option<Thread>,
}

/// `thread_core_entry`.
#[derive(Clone, PartialEq, Message)]
struct Thread {
    #[prost(uint32, optional, tag = "8")]
    death_signal: Option<u32>,
    #[prost(bytes, optional, tag = "15")]
    name: Option<Vec<u8>>,
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match data.split_first_mut() {
        Some((b'J', json)) if size > 1 => 1 + mutate_json(json, size - 1, max_size - 1, seed),
        _ => fuzzer_mutate(data, size, max_size),
    }
});

fuzz_target!(|data: &[u8]| {
    let Some((kind, content)) = data.split_first() else {
        return;
    };
    match kind {
        b'J' => check_manifest(content),
        b'M' => check_mounts(content),
        _ => check_core(content),
    }
});

fn check_manifest(content: &[u8]) {
    let manifest = match manifest(content, MACHINE) {
        Ok(manifest) => manifest,
        Err(error) => return assert_lines_printable(&error.to_string()),
    };
    let text = serde_json::to_vec(&manifest).unwrap();
    assert_eq!(
        serde_json::from_slice::<Manifest>(&text).unwrap(),
        manifest,
        "does not survive JSON"
    );
    assert_eq!(manifest.machine, MACHINE);
    assert!(!manifest.files.is_empty());
    for (name, file) in &manifest.files {
        assert!(name.ends_with(".img") && !name.starts_with('.') && !name.contains('/'));
        assert_eq!(file.digest.len(), "blake3:".len() + 64);
    }
    for task in &manifest.attributes.tasks {
        assert!(task.tid > 0, "{task:?}");
    }
}

/// The entries of an image, after its two magic numbers.
fn entries(content: &[u8]) -> Vec<&[u8]> {
    let mut rest = &content[8..];
    let mut entries = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (entry, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        entries.push(entry);
        rest = after;
    }
    assert!(rest.is_empty());
    entries
}

/// The entries of an image, each with what was made of it.
fn pairs<'a>(old: &'a [u8], new: &'a Result<Vec<u8>>) -> Vec<(&'a [u8], &'a [u8])> {
    let new = match new {
        Ok(new) => new,
        Err(error) => {
            assert_lines_printable(&error.to_string());
            return Vec::new();
        }
    };
    assert_eq!(new[..8], old[..8]);
    let (old, new) = (entries(old), entries(new));
    assert_eq!(old.len(), new.len());
    old.into_iter().zip(new).collect()
}

fn check_mounts(content: &[u8]) {
    let map = MAP.map(|(container_id, host_id, size)| IdMapping {
        container_id,
        host_id,
        size,
    });
    let ids = Ids {
        uids: &map,
        gids: &map,
    };
    for (old, new) in pairs(content, &mounts(content, ids)) {
        // What prost refuses, CRIU refuses.
        let Ok(mut mount) = Mount::decode(old) else {
            continue;
        };
        let external = mount.key.is_some() || mount.external.iter().any(|external| *external != 0);
        if matches!(mount.fstype, 1 | 5 | 6) && !external && mount.mountpoint != b"/" {
            mount.options = translated(&mount.options);
        }
        assert_eq!(Mount::decode(new).unwrap(), mount);
    }
}

fn translated(options: &[u8]) -> Vec<u8> {
    let options = std::str::from_utf8(options).unwrap().split(',');
    let options: Vec<String> = options
        .map(|option| {
            let Some((name @ ("uid" | "gid"), id)) = option.split_once('=') else {
                return option.to_owned();
            };
            let id: u32 = id.parse().unwrap();
            let line = MAP
                .iter()
                .find(|(_, host, size)| (*host..host + size).contains(&id));
            let (container, host, _) = line.expect("an id that the container does not have");
            format!("{name}={}", container + (id - host))
        })
        .collect();
    options.join(",").into_bytes()
}

fn check_core(content: &[u8]) {
    for (old, new) in pairs(content, &core(content)) {
        let Ok(mut core) = Core::decode(old) else {
            continue;
        };
        if let Some(thread) = &mut core.thread {
            thread.death_signal = None;
        }
        assert_eq!(Core::decode(new).unwrap(), core);
    }
}
