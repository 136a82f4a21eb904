use proptest::prelude::*;

use super::*;

const MAGIC: u32 = 0x5556_3928;

fn same(message: &[u8]) -> Result<Vec<u8>> {
    rewrite(message, |_| Ok::<_, Broken>(None))
}

#[test]
fn fields_are_what_they_are() {
    // 1: 300, 2: "ab", 3: eight bytes, 4: four bytes.
    let message = [
        8, 0xac, 2, 0x12, 2, b'a', b'b', 0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x25, 1, 2, 3, 4,
    ];
    let found = fields(&message).unwrap();
    let values: Vec<_> = found.iter().map(|f| (f.number, f.value)).collect();
    let expected = [
        (1, Value::Varint(300)),
        (2, Value::Bytes(b"ab")),
        (3, Value::Fixed),
        (4, Value::Fixed),
    ];
    assert_eq!(values, expected);
    assert_eq!(found[1].whole, [0x12, 2, b'a', b'b']);
    assert_eq!(same(&message).unwrap(), message);
    assert_eq!(bytes_field(2, b"ab"), found[1].whole);
}

#[test]
fn broken_messages_are_told() {
    for (message, why) in [
        (&[0x80][..], "it ends within a number"),
        (&[8, 0x80], "it ends within a number"),
        (&[0x12, 5, 1], "it is shorter than it says"),
        (
            &[
                0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
            "it is shorter than it says",
        ),
        (&[0x19, 1], "it is shorter than it says"),
        (&[0x25, 1], "it is shorter than it says"),
        (&[0x0b], "a field has an unknown type"),
        (&[0x0c], "a field has an unknown type"),
        (&[0x0f], "a field has an unknown type"),
        (&[0, 1], "a field has no possible number"),
        (
            &[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            "a number is too long",
        ),
        (
            &[
                8, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0,
            ],
            "a number is too long",
        ),
    ] {
        assert_eq!(fields(message), Err(Broken(why)), "{message:?}");
    }
    let most = [8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(fields(&most).unwrap()[0].value, Value::Varint(u64::MAX));
}

#[test]
fn broken_images_are_told() {
    let whole = image(MAGIC, &[vec![1, 2], vec![]]).unwrap();
    assert_eq!(entries(&whole, MAGIC).unwrap(), [&[1, 2][..], &[]]);
    let wrong = "it does not begin as such an image does";
    for (content, why) in [
        (&[][..], wrong),
        (&whole[..7], wrong),
        (&whole[..9], "it ends within a length"),
        (&whole[..13], "it is shorter than it says"),
    ] {
        assert_eq!(entries(content, MAGIC), Err(Broken(why)), "{content:?}");
    }
    assert_eq!(entries(&whole, MAGIC + 1), Err(Broken(wrong)));
}

proptest! {
    #[test]
    fn bytes_of_any_kind_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(again) = same(&bytes) {
            prop_assert_eq!(again, bytes.clone());
        }
        let mut content = image(MAGIC, &[]).unwrap();
        content.extend(&bytes);
        if let Ok(found) = entries(&content, MAGIC) {
            let found: Vec<Vec<u8>> = found.into_iter().map(<[u8]>::to_vec).collect();
            prop_assert_eq!(image(MAGIC, &found).unwrap(), content);
        }
    }

    #[test]
    fn numbers_come_back(number in any::<u64>()) {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, number);
        let mut rest = &bytes[..];
        prop_assert_eq!(take_varint(&mut rest), Ok(number));
        prop_assert!(rest.is_empty());
    }
}
