//! Subordinate ids: the format of subuid(5) and subgid(5), and of getsubids(1)'s answer.
//!
//! newuidmap(1) is the judge of every range, so what it could read differently (octal, signs, blanks) is skipped here.

use std::collections::BTreeMap;

use super::IdRange;

/// Ids stop short of `(uid_t) -1`.
const END: u64 = u32::MAX as u64;

/// How many notes are kept; the rest is one line that counts them.
const MAX_NOTES: usize = 8;

const MALFORMED: &str = "it is not NAME:START:COUNT in plain decimal numbers";
const EMPTY: &str = "its count is 0";
const TOO_FAR: &str = "it goes beyond the last id, 4294967294";
const HOLDS_OWN: &str = "it holds the caller's own id";
const OVERLAPS_OWN: &str = "it overlaps an earlier line of the same user";
const OVERLAPS_OTHER: &str = "it overlaps another user's line";

/// The code (see [`crate::doctor`]) of what is wrong with a line that was skipped, by the words it was told with.
pub fn skipped_code(note: &str) -> Option<&'static str> {
    [
        (MALFORMED, "LDG-SUBID-MALFORMED"),
        (EMPTY, "LDG-SUBID-MALFORMED"),
        (TOO_FAR, "LDG-SUBID-OVERFLOW"),
        (HOLDS_OWN, "LDG-SUBID-OWN"),
        (OVERLAPS_OWN, "LDG-SUBID-OVERLAP"),
        (OVERLAPS_OTHER, "LDG-SUBID-OVERLAP"),
    ]
    .into_iter()
    .find_map(|(words, code)| note.ends_with(words).then_some(code))
}

/// The ranges of one user in the text of subuid(5) or subgid(5), in order, and what was skipped (with line numbers).
///
/// A line is the user's when it has the name or the decimal uid. `own_id` is the uid or gid that no range may hold.
pub fn parse_subid(
    text: &str,
    user_name: Option<&str>,
    uid: u32,
    own_id: u32,
) -> (Vec<IdRange>, Vec<String>) {
    let number = uid.to_string();
    let mut mine = Vec::new();
    let mut others = Vec::new();
    // Not str::lines: it would drop a carriage return that newuidmap refuses.
    for (index, line) in text.split('\n').enumerate() {
        let (owner, rest) = line.split_once(':').unwrap_or((line, ""));
        let range = rest.split_once(':').and_then(|(s, c)| numbers(s, c));
        if owner == number || (!owner.is_empty() && Some(owner) == user_name) {
            mine.push((index + 1, range));
        } else if let Some((start, count)) = range {
            others.push((start, start.saturating_add(count)));
        }
    }
    collect(mine, Spans::new(others), own_id)
}

/// The ranges in the answer of `getsubids NAME` (`0: name 100000 65536` a line), and what was skipped.
pub fn parse_getsubids(text: &str, own_id: u32) -> (Vec<IdRange>, Vec<String>) {
    let lines = text.lines().enumerate();
    let mine = lines.filter(|(_, line)| !line.trim().is_empty());
    let mine = mine.map(|(index, line)| (index + 1, getsubids_line(line)));
    collect(mine.collect(), Spans::new(Vec::new()), own_id)
}

fn getsubids_line(line: &str) -> Option<(u64, u64)> {
    // From the right: a name of the directory service may hold blanks.
    let mut words = line.rsplitn(3, ' ');
    let count = words.next()?;
    let start = words.next()?;
    let (index, _) = words.next()?.split_once(": ")?;
    decimal(index)?;
    numbers(start, count)
}

fn numbers(start: &str, count: &str) -> Option<(u64, u64)> {
    Some((decimal(start)?, decimal(count)?))
}

/// A plain decimal number. A leading zero is refused: shadow reads it as octal.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    let octal = text.len() > 1 && text.starts_with('0');
    if plain && !octal {
        text.parse().ok()
    } else {
        None
    }
}

/// Spans `start..end` that may overlap one another, ready for "does one of you overlap this".
struct Spans {
    /// Sorted by start; the second number is the highest end so far.
    sorted: Vec<(u64, u64)>,
}

impl Spans {
    fn new(mut spans: Vec<(u64, u64)>) -> Self {
        spans.retain(|(start, end)| start < end);
        spans.sort_unstable();
        let mut highest = 0;
        for span in &mut spans {
            highest = highest.max(span.1);
            span.1 = highest;
        }
        Self { sorted: spans }
    }

    fn overlap(&self, start: u64, end: u64) -> bool {
        let before = self.sorted.partition_point(|span| span.0 < end);
        before > 0 && self.sorted[before - 1].1 > start
    }
}

type Line = (usize, Option<(u64, u64)>);

fn collect(lines: Vec<Line>, others: Spans, own_id: u32) -> (Vec<IdRange>, Vec<String>) {
    let mut taken = BTreeMap::new();
    let mut ranges = Vec::new();
    let mut notes = Vec::new();
    let mut skipped = 0;
    for (number, range) in lines {
        match judge(range, &taken, &others, own_id) {
            Ok(range) => {
                let start = u64::from(range.start);
                taken.insert(start, start + u64::from(range.count));
                ranges.push(range);
            }
            Err(why) => {
                skipped += 1;
                if skipped <= MAX_NOTES {
                    notes.push(format!("line {number} is skipped: {why}"));
                }
            }
        }
    }
    if skipped > MAX_NOTES {
        notes.push(format!("{} more lines are skipped", skipped - MAX_NOTES));
    }
    (ranges, notes)
}

fn judge(
    range: Option<(u64, u64)>,
    taken: &BTreeMap<u64, u64>,
    others: &Spans,
    own_id: u32,
) -> Result<IdRange, &'static str> {
    let (start, count) = range.ok_or(MALFORMED)?;
    if count == 0 {
        return Err(EMPTY);
    }
    let end = start.saturating_add(count);
    if end > END {
        return Err(TOO_FAR);
    }
    if (start..end).contains(&u64::from(own_id)) {
        return Err(HOLDS_OWN);
    }
    if taken
        .range(..end)
        .next_back()
        .is_some_and(|(_, e)| *e > start)
    {
        return Err(OVERLAPS_OWN);
    }
    if others.overlap(start, end) {
        return Err(OVERLAPS_OTHER);
    }
    Ok(IdRange {
        start: u32::try_from(start).map_err(|_| TOO_FAR)?,
        count: u32::try_from(count).map_err(|_| TOO_FAR)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u32, count: u32) -> IdRange {
        IdRange { start, count }
    }

    fn parse(text: &str) -> (Vec<IdRange>, Vec<String>) {
        parse_subid(text, Some("lodger"), 1000, 1000)
    }

    #[test]
    fn name_and_number_without_a_last_newline() {
        let (ranges, notes) =
            parse("root:1:5\nlodger:100000:65536\n1000:300000:10\n10000:1:1\nlodger:400000:1");
        let expected = [range(100_000, 65536), range(300_000, 10), range(400_000, 1)];
        assert_eq!(ranges, expected);
        assert_eq!(notes, Vec::<String>::new());
    }

    #[test]
    fn an_account_without_a_name_matches_by_number_only() {
        let text = ":5:5\nlodger:100000:65536\n1000:300000:10\n";
        let (ranges, notes) = parse_subid(text, None, 1000, 1000);
        assert_eq!(ranges, [range(300_000, 10)]);
        assert!(notes.is_empty());
    }

    #[test]
    fn malformed_lines_are_skipped_with_their_number() {
        for bad in [
            "lodger",
            "lodger:",
            "lodger:1",
            "lodger:+2000:5",
            "lodger: 2000:5",
            "lodger:2000:5 ",
            "lodger:-2000:5",
            "lodger:2000:5\r",
            "lodger:02000:5",
            "lodger:2000:5:6",
            "lodger::5",
            "lodger:99999999999999999999999:5",
        ] {
            let (ranges, notes) = parse(&format!("{bad}\nlodger:100000:65536\n"));
            assert_eq!(ranges, [range(100_000, 65536)], "{bad:?}");
            assert_eq!(notes.len(), 1, "{bad:?}");
            assert!(notes[0].starts_with("line 1 is skipped"), "{notes:?}");
        }
    }

    #[test]
    fn wrapping_empty_own_and_overlapping_lines_are_skipped() {
        for (text, why) in [
            ("lodger:4294967295:1", "beyond"),
            ("lodger:4294967290:6", "beyond"),
            ("lodger:18446744073709551615:5", "beyond"),
            ("lodger:5000:0", "count is 0"),
            ("lodger:999:2", "own id"),
            ("lodger:100001:1", "earlier line"),
            ("lodger:5000:10\nother:5009:1", "another user"),
            (
                "lodger:5000:10\nother:1:18446744073709551615",
                "another user",
            ),
        ] {
            let (ranges, notes) = parse(&format!("lodger:100000:65536\n{text}\n"));
            if text.contains("other:1:") {
                assert_eq!(ranges, []);
            } else {
                assert_eq!(ranges, [range(100_000, 65536)], "{text}");
            }
            assert!(notes.last().unwrap().contains(why), "{text}: {notes:?}");
        }
        assert_eq!(parse("lodger:4294967290:5").0, [range(4_294_967_290, 5)]);
    }

    #[test]
    fn ten_thousand_lines() {
        let line = |i: u32| format!("lodger:{}:100\n", 100_000 + i * 100);
        let text: String = (0..10_000).map(line).collect();
        assert_eq!(parse(&text).0.len(), 10_000);
        let (ranges, notes) = parse(&"lodger:x:y\n".repeat(10_000));
        assert!(ranges.is_empty());
        assert_eq!(notes.len(), MAX_NOTES + 1);
        assert_eq!(notes[MAX_NOTES], "9992 more lines are skipped");
    }

    #[test]
    fn answer_of_getsubids() {
        let (ranges, notes) =
            parse_getsubids("0: lodger 100000 65536\n1: A B 300000 10\nnonsense\n", 1000);
        assert_eq!(ranges, [range(100_000, 65536), range(300_000, 10)]);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].starts_with("line 3"));
    }

    fn check(ranges: &[IdRange], own: u32) {
        let spans = ranges
            .iter()
            .map(|r| (u64::from(r.start), u64::from(r.start) + u64::from(r.count)));
        let mut spans: Vec<_> = spans.collect();
        spans.sort_unstable();
        for (start, end) in &spans {
            assert!(start < end && *end <= END);
            assert!(!(*start..*end).contains(&u64::from(own)));
        }
        assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    }

    proptest! {
        #[test]
        fn arbitrary_text(text in any::<String>()) {
            check(&parse(&text).0, 1000);
            check(&parse_getsubids(&text, 1000).0, 1000);
        }

        #[test]
        fn arbitrary_lines(text in "((lodger|1000|other):[0-9+ -]{0,11}:[0-9]{0,10}\r?\n){0,20}") {
            check(&parse(&text).0, 1000);
        }

        #[test]
        fn close_ranges(lines in prop::collection::vec((0u64..3000, 0u64..300), 0..40)) {
            let line = |(start, count): &(u64, u64)| format!("lodger:{start}:{count}\n");
            check(&parse(&lines.iter().map(line).collect::<String>()).0, 1000);
        }
    }
}
