extern crate std;

use std::vec::Vec;

use super::*;

const STRINGS: &[u8] = b"reg\0";

/// A blob with an empty reservation block around `structure`.
fn blob(structure: &[u8]) -> Vec<u8> {
    let parts = [16, structure.len(), STRINGS.len(), 3];
    let mut blob = write_header(parts, 7).expect("a small blob").to_vec();
    blob.extend([0; 16]);
    blob.extend(structure);
    blob.extend(STRINGS);
    blob.extend([0; 3]);
    blob
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A root with a property of five bytes and a node with a NOP in it.
fn sound() -> Vec<u8> {
    words(&[
        token::BEGIN_NODE,
        0,
        token::PROPERTY,
        5,
        0,
        0x0102_0304,
        0x0500_0000,
        token::BEGIN_NODE,
        u32::from_be_bytes(*b"node"),
        0,
        token::NOP,
        token::END_NODE,
        token::END_NODE,
        token::END,
    ])
}

fn damage(structure: &[u32]) -> Damage {
    Blob::check(&blob(&words(structure))).expect_err("unsound")
}

#[test]
fn what_is_written_is_walked_in_order() {
    let structure = sound();
    let bytes = blob(&structure);
    let blob = Blob::check(&bytes).expect("sound");
    assert_eq!(size(&bytes), Ok(bytes.len()));
    assert_eq!((blob.bytes(), blob.boot_cpu()), (&bytes[..], 7));
    assert_eq!(
        (blob.reservations(), blob.strings()),
        (&[0; 16][..], STRINGS)
    );
    assert!(blob.has_nops());
    let tokens: Vec<Token<'_>> = blob.walk().map(|(token, _)| token).collect();
    let expected = [
        Token::BeginNode(b""),
        Token::Property(b"reg", &[1, 2, 3, 4, 5]),
        Token::BeginNode(b"node"),
        Token::Nop,
        Token::EndNode,
        Token::EndNode,
        Token::End,
    ];
    assert_eq!(tokens, expected);
    let taken: Vec<u8> = blob.walk().flat_map(|(_, own)| own).copied().collect();
    assert_eq!(taken, structure);
}

#[test]
fn nothing_comes_behind_the_end() {
    let mut structure = sound();
    structure.extend(words(&[token::END_NODE, token::NOP]));
    let bytes = blob(&structure);
    let blob = Blob::check(&bytes).expect("sound");
    assert_eq!(blob.walk().count(), 7);
}

#[test]
fn each_damage_is_said() {
    let bytes = blob(&sound());
    let broken = |what| Damage::Broken(what);
    assert_eq!(size(&bytes[..39]), Err(broken("is too short for a header")));
    let cut = Blob::check(&bytes[..bytes.len() - 1]).expect_err("cut short");
    assert_eq!(cut, broken("is cut short"));
    let with = |at: usize, value: u32| {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        Blob::check(&bytes).expect_err("damaged")
    };
    assert_eq!(with(0, 1), Damage::NoMagic);
    assert_eq!(
        with(header::OWN_VERSION, 16),
        broken("has a version other than 17")
    );
    let fit = broken("has a header that does not fit it");
    assert_eq!(with(header::STRINGS_SIZE, u32::MAX), fit);
    let end = broken("has a reservation block without end");
    assert_eq!(with(header::RESERVATIONS, u32::MAX), end);
    let structure = broken("has a broken structure block");
    assert_eq!(damage(&[token::END]), structure);
    assert_eq!(damage(&[token::BEGIN_NODE, 0, token::END]), structure);
    assert_eq!(damage(&[token::BEGIN_NODE, 0, 5]), structure);
    // A value, or a name, that leads out.
    assert_eq!(
        damage(&[token::BEGIN_NODE, 0, token::PROPERTY, 4, 0]),
        structure
    );
    assert_eq!(
        damage(&[
            token::BEGIN_NODE,
            0,
            token::PROPERTY,
            0,
            99,
            token::END_NODE,
            token::END
        ]),
        broken("has a property without a proper name")
    );
    let deep = [token::BEGIN_NODE, u32::from_be_bytes(*b"a\0\0\0")].repeat(MAX_DEPTH);
    let deep = [&[token::BEGIN_NODE, 0][..], &deep].concat();
    assert_eq!(damage(&deep), broken("nests its nodes too deep"));
}

#[test]
fn what_the_format_cannot_hold_has_no_header() {
    assert!(write_header([16, u32::MAX as usize, 0, 0], 0).is_none());
    assert!(write_header([16, 4, usize::MAX, 0], 0).is_none());
}
