//! A set of CPUs or of memory nodes, as the kernel and config.json write it: `0-3,7` (cpuset(7), "Formats").

use std::fmt;

use serde::{Deserialize, Serialize};

/// Numbers from 0 on, as ranges in the order they were written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NumberSet(Vec<(u32, u32)>);

impl NumberSet {
    /// The number that no set reaches: no kernel is built for more CPUs (NR_CPUS) or nodes (NODES_SHIFT).
    pub const LIMIT: u32 = 8192;

    /// Reads `0-3,7`; else what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let ranges: Result<Vec<_>, String> = text.split(',').map(range).collect();
        ranges.map(Self)
    }

    /// The numbers, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..Self::LIMIT).filter(|number| self.has(*number))
    }

    /// The numbers of this set that `other` has not: `None` when there are none.
    pub fn without(&self, other: impl Fn(u32) -> bool) -> Option<Self> {
        Self::of(self.numbers().filter(|number| !other(*number)))
    }

    /// The set of these numbers, which ascend: `None` when there are none.
    pub fn of(numbers: impl Iterator<Item = u32>) -> Option<Self> {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for number in numbers {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        (!ranges.is_empty()).then_some(Self(ranges))
    }

    fn has(&self, number: u32) -> bool {
        let within = |(first, last): &(u32, u32)| (*first..=*last).contains(&number);
        self.0.iter().any(within)
    }
}

fn range(part: &str) -> Result<(u32, u32), String> {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("the range {part:?} ends before it begins"));
    }
    Ok((first, last))
}

fn number(digits: &str) -> Result<u32, String> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<u32> = plain.then(|| digits.parse().unwrap_or(u32::MAX));
    match number {
        None => Err("is not a list of numbers and ranges like \"0-3,7\"".to_owned()),
        Some(number) if number >= NumberSet::LIMIT => {
            let highest = NumberSet::LIMIT - 1;
            Err(format!(
                "{digits} is more than Linux can have: {highest} is the highest"
            ))
        }
        Some(number) => Ok(number),
    }
}

impl fmt::Display for NumberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for NumberSet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<NumberSet> for String {
    fn from(set: NumberSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<u32> {
        NumberSet::parse(text).unwrap().numbers().collect()
    }

    #[test]
    fn numbers_and_ranges() {
        assert_eq!(numbers("0"), [0]);
        assert_eq!(numbers("0-3,7"), [0, 1, 2, 3, 7]);
        assert_eq!(numbers("5,1-2,1"), [1, 2, 5]);
        assert_eq!(numbers("8191"), [8191]);
        let set = NumberSet::parse("0-3,7").unwrap();
        assert_eq!(set.to_string(), "0-3,7");
    }

    #[test]
    fn what_is_no_list() {
        for (text, why) in [
            ("", "is not a list"),
            ("0,", "is not a list"),
            ("-1", "is not a list"),
            ("1-", "is not a list"),
            ("1-2-3", "is not a list"),
            ("+1", "is not a list"),
            (" 1", "is not a list"),
            ("3-1", "ends before it begins"),
            ("8192", "is more than Linux can have"),
            ("99999999999999999999", "is more than Linux can have"),
        ] {
            let found = NumberSet::parse(text).unwrap_err();
            assert!(found.contains(why), "{text:?}: {found}");
        }
    }

    #[test]
    fn what_another_set_lacks() {
        let set = NumberSet::parse("0-9").unwrap();
        let left = set.without(|number| [0, 4, 5].contains(&number));
        assert_eq!(left.unwrap().to_string(), "1-3,6-9");
        assert_eq!(set.without(|_| true), None);
    }
}
