//! Maps of sparse files (GNU tar's manual, "Storing Sparse Files"): old GNU headers, and GNU.sparse records 0.0, 0.1 and 1.0.
#![forbid(unsafe_code)]

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use super::entry::Extent;
use super::error::{Limit, Problem};
use super::header::{BLOCK, unsigned, wrong};
use super::pax::{decimal, without_nul};

/// How many parts a sparse file may have: their map is held in memory.
const EXTENTS: usize = 1 << 18;

/// What the records GNU.sparse.* of an extended header say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    version: (Option<u64>, Option<u64>),
    /// The file's name where `path` has a made-up one.
    pub(super) name: Option<Vec<u8>>,
    /// The size with all holes.
    size: Option<u64>,
    count: Option<u64>,
    extents: Option<Vec<Extent>>,
    /// An offset that waits for its length (0.0).
    offset: Option<u64>,
}

/// What is known of a file before its content.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sparse {
    /// The map is complete.
    Mapped { size: u64, extents: Vec<Extent> },
    /// The map is where the content begins (1.0).
    InContent { size: u64 },
}

impl Told {
    /// Takes the record GNU.sparse.`what`.
    pub(super) fn take(&mut self, what: &str, value: &[u8]) -> Result<(), String> {
        match what {
            "major" => self.version.0 = Some(decimal(value)?),
            "minor" => self.version.1 = Some(decimal(value)?),
            "name" => self.name = Some(without_nul(value)?),
            "size" | "realsize" => {
                let size = decimal(value)?;
                if self.size.replace(size).is_some_and(|before| before != size) {
                    return Err("contradicts another".to_owned());
                }
            }
            "numblocks" => self.count = Some(decimal(value)?),
            "offset" => {
                if self.offset.replace(decimal(value)?).is_some() {
                    return Err("follows another without a length between them".to_owned());
                }
            }
            "numbytes" => {
                let offset = self.offset.take().ok_or("follows no offset")?;
                let length = decimal(value)?;
                self.add(Extent { offset, length })?;
            }
            "map" => {
                if self.extents.is_some() {
                    return Err("is a second map".to_owned());
                }
                let mut numbers = value.split(|byte| *byte == b',');
                while let Some(offset) = numbers.next().filter(|_| !value.is_empty()) {
                    let length = numbers.next().ok_or("has an offset without a length")?;
                    self.add(Extent {
                        offset: decimal(offset)?,
                        length: decimal(length)?,
                    })?;
                }
                self.extents.get_or_insert_default();
            }
            _ => return Err("is unknown".to_owned()),
        }
        Ok(())
    }

    fn add(&mut self, extent: Extent) -> Result<(), String> {
        let extents = self.extents.get_or_insert_default();
        if extents.len() == EXTENTS {
            return Err(format!("is one of more than {EXTENTS}"));
        }
        extents.push(extent);
        Ok(())
    }

    /// What they say together; `None` if there were none.
    pub(super) fn resolve(self) -> Result<Option<Sparse>, Problem> {
        if self == Self::default() {
            return Ok(None);
        }
        let bad = |what: &str| Problem::malformed(format!("its sparse map {what}"));
        let size = self.size.ok_or_else(|| bad("says no size"))?;
        match self.version {
            (Some(1), Some(0)) => match (self.extents, self.offset) {
                (None, None) => Ok(Some(Sparse::InContent { size })),
                _ => Err(bad("is there twice")),
            },
            (None, None) | (Some(0), Some(0 | 1)) => {
                let extents = self.extents.unwrap_or_default();
                if self.offset.is_some() {
                    return Err(bad("has an offset without a length"));
                }
                if self
                    .count
                    .is_some_and(|count| count != extents.len() as u64)
                {
                    return Err(bad("has another length than it says"));
                }
                Ok(Some(Sparse::Mapped { size, extents }))
            }
            _ => Err(Problem::unsupported(
                "its sparse map is of a version that is neither 0.0, 0.1 nor 1.0",
            )),
        }
    }
}

/// Takes the parts in a header of type S; says the size of the file, and whether more of the map follows.
pub(super) fn old(header: &Header, extents: &mut Vec<Extent>) -> Result<(u64, bool), Problem> {
    let Some(gnu) = header.as_gnu() else {
        return Err(Problem::malformed(
            "it is sparse, but its header is not GNU tar's",
        ));
    };
    let size = unsigned(&gnu.realsize).map_err(|why| wrong("real size", &why))?;
    take(&gnu.sparse, extents)?;
    Ok((size, gnu.isextended[0] != 0))
}

/// Takes the parts in a block that goes on with the map; whether yet another follows.
pub(super) fn more(block: &[u8; BLOCK], extents: &mut Vec<Extent>) -> Result<bool, Problem> {
    let mut header = GnuExtSparseHeader::new();
    header.as_mut_bytes().copy_from_slice(block);
    take(header.sparse(), extents)?;
    Ok(header.isextended[0] != 0)
}

fn take(parts: &[GnuSparseHeader], extents: &mut Vec<Extent>) -> Result<(), Problem> {
    // The first that is empty ends the list.
    for part in parts.iter().take_while(|part| part.numbytes[0] != 0) {
        room_for(extents.len() as u64 + 1)?;
        extents.push(Extent {
            offset: unsigned(&part.offset).map_err(|why| wrong("sparse map", &why))?,
            length: unsigned(&part.numbytes).map_err(|why| wrong("sparse map", &why))?,
        });
    }
    Ok(())
}

fn room_for(count: u64) -> Result<(), Problem> {
    if count > EXTENTS as u64 {
        return Err(Problem::Limit {
            limit: Limit::Extents,
            said: count,
            most: EXTENTS as u64,
        });
    }
    Ok(())
}

/// Reads the map that is where the content begins (1.0): decimal numbers, one a line, in whole blocks.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    /// How many numbers follow, once the first line told.
    left: Option<u64>,
    digits: Vec<u8>,
    offset: Option<u64>,
    extents: Vec<Extent>,
}

impl MapReader {
    /// Takes a block; whether it was the last one.
    pub(super) fn take(&mut self, block: &[u8; BLOCK]) -> Result<bool, Problem> {
        for byte in block {
            if self.left == Some(0) {
                break;
            }
            if *byte != b'\n' {
                self.digits.push(*byte);
                if self.digits.len() > 20 {
                    return Err(Problem::malformed("its sparse map is not made of numbers"));
                }
                continue;
            }
            let number = decimal(&self.digits)
                .map_err(|why| Problem::malformed(format!("a number of its sparse map {why}")))?;
            self.digits.clear();
            self.number(number)?;
        }
        Ok(self.left == Some(0))
    }

    fn number(&mut self, number: u64) -> Result<(), Problem> {
        let Some(left) = self.left else {
            room_for(number)?;
            self.left = Some(number * 2);
            return Ok(());
        };
        self.left = Some(left - 1);
        match self.offset.take() {
            None => self.offset = Some(number),
            Some(offset) => self.extents.push(Extent {
                offset,
                length: number,
            }),
        }
        Ok(())
    }

    pub(super) fn extents(self) -> Vec<Extent> {
        self.extents
    }
}

/// Checks that `extents` follow one another within `size` and need exactly what is `stored`.
pub(super) fn check(extents: &[Extent], size: u64, stored: u64) -> Result<(), Problem> {
    let bad = |what: &str| Problem::malformed(format!("its sparse map {what}"));
    let mut end = 0;
    let mut sum = 0u64;
    for extent in extents {
        if extent.offset < end {
            return Err(bad("has parts that overlap or are out of order"));
        }
        end = extent
            .offset
            .checked_add(extent.length)
            .filter(|end| *end <= size)
            .ok_or_else(|| bad("has a part behind the end of the file"))?;
        // Parts are apart and within the size: their sum cannot be more.
        sum += extent.length;
    }
    if sum != stored {
        return Err(bad("needs another number of bytes than are stored"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    #[test]
    fn maps_must_hold_together() {
        let cases: &[(&[Extent], u64, u64, bool)] = &[
            (&[], 0, 0, true),
            (&[], 9, 0, true),
            (&[], 9, 1, false),
            (&[extent(0, 3), extent(3, 1), extent(9, 0)], 9, 4, true),
            (&[extent(0, 3), extent(2, 1)], 9, 4, false),
            (&[extent(5, 1), extent(0, 1)], 9, 2, false),
            (&[extent(5, 5)], 9, 5, false),
            (&[extent(10, 0)], 9, 0, false),
            (&[extent(u64::MAX, 1)], u64::MAX, 1, false),
            (&[extent(1, u64::MAX)], u64::MAX, u64::MAX, false),
            (&[extent(1, 2)], 9, 3, false),
            (&[extent(1, 2)], 9, 1, false),
        ];
        for (extents, size, stored, holds) in cases {
            let result = check(extents, *size, *stored);
            assert_eq!(result.is_ok(), *holds, "{extents:?} {size} {stored}");
        }
    }

    #[test]
    fn records_must_hold_together() {
        let told = |records: &[(&str, &str)]| {
            let mut told = Told::default();
            for (what, value) in records {
                told.take(what, value.as_bytes()).ok()?;
            }
            told.resolve().ok()
        };
        let mapped = |extents: &[Extent]| {
            Some(Some(Sparse::Mapped {
                size: 9,
                extents: extents.to_vec(),
            }))
        };
        assert_eq!(told(&[]), Some(None));
        let map = ("map", "0,1,5,2");
        let both = [extent(0, 1), extent(5, 2)];
        assert_eq!(
            told(&[("size", "9"), ("numblocks", "2"), map]),
            mapped(&both)
        );
        assert_eq!(told(&[("size", "9"), ("map", "")]), mapped(&[]));
        let one = [("offset", "0"), ("numbytes", "1")];
        let two = [("offset", "5"), ("numbytes", "2")];
        let zero = [("size", "9"), one[0], one[1], two[0], two[1]];
        assert_eq!(told(&zero), mapped(&both));
        let versioned = [("major", "1"), ("minor", "0"), ("realsize", "9")];
        assert_eq!(told(&versioned), Some(Some(Sparse::InContent { size: 9 })));
        for bad in [
            &[map][..],
            &[("size", "9"), map, map],
            &[("size", "9"), ("numblocks", "3"), map],
            &[("size", "9"), ("map", "1")],
            &[("size", "9"), ("map", "1,2,")],
            &[("size", "9"), ("map", "1,-2")],
            &[("size", "9"), ("realsize", "8")],
            &[("size", "9"), one[0]],
            &[("size", "9"), one[1]],
            &[("size", "9"), one[0], two[0]],
            &[("size", "9"), ("major", "2"), ("minor", "0")],
            &[("size", "9"), ("major", "1")],
            &[versioned[0], versioned[1], versioned[2], map],
            &[("size", "9"), ("holes", "1")],
            &[("size", "")],
        ] {
            assert_eq!(told(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_map_in_the_content_is_bounded() {
        let block = |text: &str| {
            let mut block = [0; BLOCK];
            block[..text.len()].copy_from_slice(text.as_bytes());
            block
        };
        let mut reader = MapReader::default();
        assert_eq!(reader.take(&block("2\n0\n1\n5\n2\n")), Ok(true));
        assert_eq!(reader.extents(), [extent(0, 1), extent(5, 2)]);
        for bad in [
            "",
            "x\n",
            "\n",
            "-1\n",
            "262145\n",
            "9223372036854775807\n",
            "99999999999999999999\n",
            "1\n5\nx\n",
            "1\n123456789012345678901234\n",
        ] {
            assert!(MapReader::default().take(&block(bad)).is_err(), "{bad:?}");
        }
    }
}
