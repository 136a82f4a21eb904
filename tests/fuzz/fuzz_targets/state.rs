//! state.json, as a crash or a full disk may have left it: what it says, and what is printed of it.
#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use lodger::fuzzing::{shown, status};
use lodger::state::{Record, Status};
use lodger_fuzz::{assert_lines_printable, mutate_json};
use serde_json::Value;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_json(data, size, max_size, seed)
});

fuzz_target!(|data: &[u8]| {
    let record: Option<Record> = serde_json::from_slice(data).ok();
    if let Some(record) = &record {
        let text = serde_json::to_vec(record).unwrap();
        assert_eq!(
            &serde_json::from_slice::<Record>(&text).unwrap(),
            record,
            "does not survive JSON"
        );
    }
    if record.is_none() {
        check(None, Status::Creating);
        check(None, Status::Stopped);
        return;
    }
    for bits in 0..8 {
        let [alive, gate, frozen] = [0, 1, 2].map(|bit| bits >> bit & 1 == 1);
        let status = status(alive, gate, frozen);
        match status {
            Status::Creating => panic!("it has a record"),
            Status::Created => assert!(alive && gate && !frozen),
            Status::Running => assert!(alive && !gate && !frozen),
            Status::Paused => assert!(alive && frozen),
            Status::Stopped => assert!(!alive),
        }
        check(record.as_ref(), status);
    }
});

fn check(record: Option<&Record>, status: Status) {
    let [json, table] = shown("some-id", status, record.cloned()).unwrap();
    assert_lines_printable(&json);
    assert_lines_printable(&table);
    assert_eq!(table.lines().count(), 2, "{table}");
    let state: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(state["id"], "some-id");
    assert_eq!(state["status"], status.word());
    let pid = record
        .filter(|_| status != Status::Stopped)
        .map_or(0, |record| record.process.pid);
    assert_eq!(state["pid"], pid);
    if let Some(record) = record {
        assert_eq!(state["bundle"], record.bundle.to_str().unwrap());
        assert_eq!(state["owner"], *record.owner);
        assert_eq!(state["created"], *record.created);
        assert_eq!(state["ociVersion"], *record.oci_version);
        for (key, value) in &record.annotations {
            assert_eq!(state["annotations"][key], **value);
        }
    }
}
