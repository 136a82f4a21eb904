//! subuid(5), subgid(5) and the answer of getsubids(1): which ids are the caller's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lodger::host::{IdRange, parse_getsubids, parse_subid};
use lodger_fuzz::{assert_apart, assert_printable};

const UID: u32 = 1000;
const OWN: u32 = 1001;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    for name in [Some("lodger"), Some(""), None] {
        check_file(&text, name);
    }
    let (ranges, notes) = parse_getsubids(&text, OWN);
    check(&ranges, &notes);
    for range in ranges {
        let end = format!(" {} {}", range.start, range.count);
        assert!(
            text.lines().any(|line| line.ends_with(&end)),
            "not in the answer: {range:?}"
        );
    }
});

fn check_file(text: &str, name: Option<&str>) {
    let (ranges, notes) = parse_subid(text, name, UID, OWN);
    check(&ranges, &notes);
    let name = name.filter(|name| !name.is_empty());
    let mine = |line: &&str| {
        line.split(':')
            .next()
            .is_some_and(|owner| Some(owner) == name || owner == "1000")
    };
    let lines: Vec<&str> = text.split('\n').filter(mine).collect();
    // An id is ours only if a line says so in these very digits.
    for range in &ranges {
        let digits = format!(":{}:{}", range.start, range.count);
        let said = |line: &&str| line.find(':').is_some_and(|at| line[at..] == digits);
        assert!(lines.iter().any(said), "not in the file: {range:?}");
    }
    let counted = notes
        .last()
        .and_then(|note| note.split(' ').next()?.parse::<usize>().ok());
    let skipped = counted.map_or(notes.len(), |more| notes.len() - 1 + more);
    assert_eq!(
        ranges.len() + skipped,
        lines.len(),
        "a line is neither used nor noted: {notes:?}"
    );
    for line in text.split('\n').filter(|line| !mine(line)) {
        let mut words = line.split(':').skip(1).map(str::parse::<u64>);
        let (Some(Ok(start)), Some(Ok(count)), None) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        // Signs and zeros in front are not what shadow takes for a number there.
        if line.contains('+') || line.contains(":0") {
            continue;
        }
        let end = start.saturating_add(count);
        for range in &ranges {
            let (from, to) = (
                u64::from(range.start),
                u64::from(range.start) + u64::from(range.count),
            );
            assert!(
                count == 0 || to <= start || end <= from,
                "{range:?} is somebody else's: {line:?}"
            );
        }
    }
}

fn check(ranges: &[IdRange], notes: &[String]) {
    assert_apart(ranges.iter().map(|range| (range.start, range.count)));
    assert!(
        !ranges
            .iter()
            .any(|range| range.has(OWN) || range.has(u32::MAX))
    );
    assert!(notes.len() <= 9);
    notes.iter().for_each(|note| assert_printable(note));
}
