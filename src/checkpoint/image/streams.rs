//! The caller's regular files among the files of a container: at a restore others take their place.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;

use super::translate::{Problem, rewrite};
use super::wire::{self, Value};
use crate::error::Result;

/// files.img (CRIU's magic.h).
const FILES: u32 = 0x5630_3138;

/// `reg_file_entry` in `file_entry` (CRIU's fdinfo.proto).
const REGULAR: u32 = 3;

/// Fields of `reg_file_entry` (CRIU's regfile.proto).
const FLAGS: u32 = 2;
const POSITION: u32 = 3;
const SIZE: u32 = 8;
const EXTERNAL: u32 = 9;
const MODE: u32 = 10;

/// A position that is not set: what it is set in need not have one.
const NO_POSITION: u64 = u64::MAX;

/// Lets any file take the place of one of the caller's, which CRIU would want to be of the same size and kind, and would write to
/// where the other one was written to: a pipe, or another log. What is written to it goes to its end, as nothing of it may be
/// written over.
///
/// # Errors
/// The image is broken.
pub fn free_streams(directory: impl AsFd) -> Result<()> {
    rewrite(directory.as_fd(), "files.img", |content| {
        let entries = wire::entries(content, FILES)?;
        let entries = entries.into_iter().map(free);
        let entries = entries.collect::<wire::Result<Vec<_>>>()?;
        Ok::<_, Problem>(wire::image(FILES, &entries)?)
    })
    .map_err(|e| e.within("cannot let other files take the place of the caller's"))
}

fn free(file: &[u8]) -> wire::Result<Vec<u8>> {
    wire::rewrite(file, |field| match (field.number, field.value) {
        (REGULAR, Value::Bytes(entry)) if is_external(entry)? => {
            let is_regular = is_regular(entry)?;
            let entry = wire::rewrite(entry, |field| Ok(freed(field, is_regular)))?;
            Ok(Some(wire::bytes_field(REGULAR, &entry)))
        }
        _ => Ok(None),
    })
}

fn is_external(entry: &[u8]) -> wire::Result<bool> {
    let fields = wire::fields(entry)?;
    let external = |value| matches!(value, Value::Varint(value) if value != 0);
    Ok(fields
        .iter()
        .any(|field| field.number == EXTERNAL && external(field.value)))
}

fn is_regular(entry: &[u8]) -> wire::Result<bool> {
    let fields = wire::fields(entry)?;
    let regular = |mode| mode & u64::from(libc::S_IFMT) == u64::from(libc::S_IFREG);
    Ok(fields.iter().any(|field| match field.value {
        Value::Varint(mode) => field.number == MODE && regular(mode),
        _ => false,
    }))
}

/// What becomes of a field; `None`: it stays.
fn freed(field: &wire::Field<'_>, is_regular: bool) -> Option<Vec<u8>> {
    match (field.number, field.value) {
        (SIZE | MODE, _) => Some(Vec::new()),
        (POSITION, _) => Some(wire::number_field(POSITION, NO_POSITION)),
        (FLAGS, Value::Varint(flags)) if is_regular && is_written(flags) => {
            Some(wire::number_field(FLAGS, flags | APPEND))
        }
        _ => None,
    }
}

/// O_APPEND.
const APPEND: u64 = libc::O_APPEND.unsigned_abs() as u64;

fn is_written(flags: u64) -> bool {
    let mode = flags & u64::from(libc::O_ACCMODE.unsigned_abs());
    mode != u64::from(libc::O_RDONLY.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(external: u64, flags: u64) -> Vec<u8> {
        let regular: u64 = 0o100_644;
        let numbers = [
            (1, 7),
            (FLAGS, flags),
            (POSITION, 42),
            (SIZE, 42),
            (EXTERNAL, external),
        ];
        let mut entry: Vec<u8> = numbers
            .iter()
            .flat_map(|(number, value)| wire::number_field(*number, *value))
            .collect();
        entry.extend(wire::number_field(MODE, regular));
        let mut file = wire::number_field(1, 1);
        file.extend(wire::bytes_field(REGULAR, &entry));
        file
    }

    fn numbers(file: &[u8]) -> Vec<(u32, u64)> {
        let fields = wire::fields(file).unwrap();
        let Value::Bytes(entry) = fields.iter().find(|f| f.number == REGULAR).unwrap().value else {
            panic!("no entry");
        };
        let numbers = wire::fields(entry).unwrap();
        numbers
            .iter()
            .map(|field| match field.value {
                Value::Varint(value) => (field.number, value),
                _ => (field.number, 0),
            })
            .collect()
    }

    #[test]
    fn another_file_may_take_the_place_of_the_callers() {
        let write_only = 1;
        let freed = free(&entry(1, write_only)).unwrap();
        let expected = [(1, 7), (FLAGS, 0o2001), (POSITION, u64::MAX), (EXTERNAL, 1)];
        assert_eq!(numbers(&freed), expected);
        let freed = free(&entry(1, 0)).unwrap();
        assert!(numbers(&freed).contains(&(FLAGS, 0)));
    }

    #[test]
    fn what_is_the_containers_stays() {
        let own = entry(0, 1);
        assert_eq!(free(&own).unwrap(), own);
    }
}
