//! What CRIU's image files are made of: two magic numbers, then entries, each a length and a protobuf message of that many bytes.
//!
//! Messages are read field by field and passed on as they are, known or not: another version of CRIU may have more of them. What
//! is in them is the container's doing, so nothing is taken for granted.
#![forbid(unsafe_code)]

/// IMG_COMMON_MAGIC of CRIU's magic.h: every image but the inventory begins with it.
const COMMON: u32 = 0x5456_4319;

/// What is not as it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// The result of reading.
pub(super) type Result<T> = std::result::Result<T, Broken>;

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field<'a> {
    /// Its number.
    pub(super) number: u32,
    /// Its value.
    pub(super) value: Value<'a>,
    /// All of its bytes.
    pub(super) whole: &'a [u8],
}

/// The value of a field, as far as it is looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A number.
    Varint(u64),
    /// A string, a message, or numbers in a row.
    Bytes(&'a [u8]),
    /// Four or eight bytes.
    Fixed,
}

/// The entries of an image with the second magic number `magic`.
pub(super) fn entries(mut content: &[u8], magic: u32) -> Result<Vec<&[u8]>> {
    let begins = take_number(&mut content) == Some(COMMON);
    if !begins || take_number(&mut content) != Some(magic) {
        return Err(Broken("it does not begin as such an image does"));
    }
    let mut entries = Vec::new();
    while !content.is_empty() {
        let length = take_number(&mut content).ok_or(Broken("it ends within a length"))?;
        entries.push(take(&mut content, u64::from(length))?);
    }
    Ok(entries)
}

/// An image of `entries`.
pub(super) fn image(magic: u32, entries: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    content.extend(COMMON.to_le_bytes());
    content.extend(magic.to_le_bytes());
    for entry in entries {
        let length = u32::try_from(entry.len()).map_err(|_| Broken("an entry is too long"))?;
        content.extend(length.to_le_bytes());
        content.extend(entry);
    }
    Ok(content)
}

/// The fields of a message, in their order.
pub(super) fn fields(mut message: &[u8]) -> Result<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        fields.push(take_field(&mut message)?);
    }
    Ok(fields)
}

/// The message with some of its fields changed: `change` says what takes the place of one, `None` being the field itself.
pub(super) fn rewrite<E: From<Broken>>(
    message: &[u8],
    mut change: impl FnMut(&Field<'_>) -> std::result::Result<Option<Vec<u8>>, E>,
) -> std::result::Result<Vec<u8>, E> {
    let mut new = Vec::with_capacity(message.len());
    for field in fields(message)? {
        match change(&field)? {
            Some(changed) => new.extend(changed),
            None => new.extend(field.whole),
        }
    }
    Ok(new)
}

/// A field with a number.
pub(super) fn number_field(number: u32, value: u64) -> Vec<u8> {
    let mut field = Vec::with_capacity(20);
    put_varint(&mut field, u64::from(number) << 3);
    put_varint(&mut field, value);
    field
}

/// A field of type string, bytes or message.
pub(super) fn bytes_field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut field = Vec::with_capacity(value.len() + 10);
    put_varint(&mut field, u64::from(number) << 3 | 2);
    put_varint(&mut field, value.len() as u64);
    field.extend(value);
    field
}

fn take_field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>> {
    let begin = *rest;
    let tag = take_varint(rest)?;
    let number = u32::try_from(tag >> 3).unwrap_or(0);
    if !(1..1 << 29).contains(&number) {
        return Err(Broken("a field has no possible number"));
    }
    let value = match tag & 7 {
        0 => Value::Varint(take_varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Fixed)?,
        2 => {
            let length = take_varint(rest)?;
            Value::Bytes(take(rest, length)?)
        }
        5 => take(rest, 4).map(|_| Value::Fixed)?,
        _ => return Err(Broken("a field has an unknown type")),
    };
    let length = begin.len() - rest.len();
    let whole = begin.get(..length).unwrap_or_default();
    Ok(Field {
        number,
        value,
        whole,
    })
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8]> {
    let (taken, left) = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or(Broken("it is shorter than it says"))?;
    *rest = left;
    Ok(taken)
}

fn take_number(rest: &mut &[u8]) -> Option<u32> {
    let (number, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(u32::from_le_bytes(*number))
}

fn take_varint(rest: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest
            .split_first()
            .ok_or(Broken("it ends within a number"))?;
        *rest = left;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits {
            break;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Broken("a number is too long"))
}

fn put_varint(to: &mut Vec<u8>, mut number: u64) {
    while let bits @ 0x80.. = number {
        to.push(bits.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    to.push(number.to_le_bytes()[0]);
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
