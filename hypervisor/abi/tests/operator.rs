//! The operator's line: requests come through as they were sent or not at all, and so does what is typed.

use hv_abi::console::RS;
use hv_abi::operator::hashes::{Hashes, MOST_PAGES, MOST_WORDS, PAGE, WORD, Word};
use hv_abi::operator::{
    Access, Base64, Crc, Demux, END, Input, LITERAL, LONGEST, MOST, MOST_TYPED, OPENING, Request,
    Span, Typed, Verb, crc, from_base64,
};
use proptest::prelude::*;

fn framed(request: &Request) -> Vec<u8> {
    [&OPENING[..], request.to_string().as_bytes(), &END[..]].concat()
}

fn fed(demux: &mut Demux, bytes: &[u8]) -> Vec<Input> {
    let inputs = bytes.iter().map(|&byte| demux.push(byte));
    inputs.filter(|input| *input != Input::Nothing).collect()
}

fn requests(inputs: &[Input]) -> Vec<Request> {
    let request = |input: &Input| match input {
        Input::Request(request) => Some(*request),
        _ => None,
    };
    inputs.iter().filter_map(request).collect()
}

const REQUEST: Request = Request::new(0xbeef_0001, Verb::Nmi, 0, 13);

fn memory(ipa: u64, length: u16) -> Request {
    Request {
        verb: Verb::Memory,
        vcpu: 0,
        span: Span { ipa, length },
        ..REQUEST
    }
}

#[test]
fn the_form_on_the_line_is_this() {
    let text = REQUEST.to_string();
    let (before, sum) = text.rsplit_once(' ').unwrap();
    assert_eq!(before, "beef0001 n 0 d");
    assert_eq!(sum, format!("{:x}", crc(b"beef0001 n 0 d ")));
    assert_eq!(
        crc(b"123456789"),
        0xcbf4_3926,
        "the catalogue's check value of CRC-32"
    );
    assert_eq!(Crc::default().value(), 0);
}

#[test]
fn every_verb_comes_through_and_the_longest_request_has_room() {
    for (_, verb) in Verb::ALL {
        let request = Request {
            id: u32::MAX,
            verb,
            vm: 255,
            vcpu: match verb {
                Verb::Memory | Verb::Hashes | Verb::Type => 0,
                _ => 255,
            },
            span: match verb {
                Verb::Memory => Span {
                    ipa: u64::MAX,
                    length: MOST,
                },
                Verb::Hashes => Span {
                    ipa: !(PAGE - 1),
                    length: MOST_PAGES,
                },
                _ => Span::default(),
            },
            event: if verb == Verb::Raise { u32::MAX } else { 0 },
            typed: match verb {
                Verb::Type => Typed::of(&[0xff; 2 * MOST_TYPED]),
                _ => Typed::NONE,
            },
        };
        assert!(request.to_string().len() <= LONGEST);
        let inputs = fed(&mut Demux::new(), &framed(&request));
        assert_eq!(inputs, [Input::Request(request)]);
    }
}

#[test]
fn a_request_for_memory_has_its_form_and_its_bounds() {
    let text = memory(0x4020_0000, 0x300).to_string();
    let (before, sum) = text.rsplit_once(' ').unwrap();
    assert_eq!(before, "beef0001 m 0 300 40200000");
    assert_eq!(sum, format!("{:x}", crc(b"beef0001 m 0 300 40200000 ")));
    for (length, is_one) in [(0, false), (1, true), (MOST, true), (MOST + 1, false)] {
        let request = memory(u64::MAX, length);
        let read = Request::parse(request.to_string().as_bytes());
        assert_eq!(read.ok(), is_one.then_some(request), "{length}");
    }
    // Longer than any address.
    let words = "1 m 0 1 10000000000000000 ";
    let text = format!("{words}{:x}", crc(words.as_bytes()));
    assert!(Request::parse(text.as_bytes()).is_err());
}

#[test]
fn a_request_for_hashes_is_of_whole_pages_and_has_bounds() {
    let of = |ipa, length| Request {
        verb: Verb::Hashes,
        ..memory(ipa, length)
    };
    let text = of(0x4020_0000, 0x300).to_string();
    assert!(text.starts_with("beef0001 h 0 300 40200000 "), "{text}");
    for (ipa, length, is_one) in [
        (0, 0, false),
        (0, 1, true),
        (0, MOST_PAGES, true),
        (0, MOST_PAGES + 1, false),
        (PAGE - 1, 1, false),
        (PAGE, 1, true),
    ] {
        let request = of(ipa, length);
        let read = Request::parse(request.to_string().as_bytes());
        assert_eq!(read.ok(), is_one.then_some(request), "{length} at {ipa:#x}");
    }
}

fn words(bytes: &[u8]) -> Vec<Word> {
    let words = bytes.chunks_exact(WORD);
    words
        .map(|word| Word::of_bits(u64::from_be_bytes(word.try_into().unwrap())))
        .collect()
}

#[test]
fn zeros_are_one_word_and_what_has_no_room_is_left_out() {
    let mut hashes = Hashes::default();
    assert_eq!(hashes.bytes(), [0u8; 0]);
    let hash = Word::of_digest([0x12, 0x34, 0, 0, 0, 0, 0, 0xff]);
    assert_eq!(hash, Word::Hash(0x9234_0000_0000_00ff));
    for word in [Word::Zeros(1), Word::Zeros(1), hash, hash, Word::Zeros(1)] {
        assert!(hashes.push(word));
    }
    let expected = [Word::Zeros(2), hash, hash, Word::Zeros(1)];
    assert_eq!(words(hashes.bytes()), expected);
    assert_eq!(hashes.bytes().len(), 4 * WORD);

    let mut hashes = Hashes::new();
    let pushed = (0..).take_while(|_| hashes.push(hash)).count();
    assert_eq!(pushed + 1, MOST_WORDS);
    assert!(!hashes.push(Word::Zeros(1)), "it stays full");
    assert_eq!(words(hashes.bytes()), [hash; MOST_WORDS]);
}

proptest! {
    #[test]
    fn each_page_is_in_the_words_once_and_in_its_place(pages in proptest::collection::vec(any::<Option<u64>>(), 1..300)) {
        let of = |page: &Option<u64>| page.map_or(Word::Zeros(1), |page| Word::of_digest(page.to_be_bytes()));
        let mut hashes = Hashes::new();
        let mut taken = 0;
        for page in &pages {
            taken += 1;
            if !hashes.push(of(page)) {
                break;
            }
        }
        let found: Vec<Word> = words(hashes.bytes()).into_iter().flat_map(|word| match word {
            Word::Hash(_) => vec![word],
            Word::Zeros(count) => vec![Word::Zeros(1); count as usize],
        }).collect();
        let expected: Vec<Word> = pages.iter().take(taken).map(of).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_request_for_an_event_has_its_form() {
    let request = Request {
        verb: Verb::Raise,
        event: 0x100,
        ..REQUEST
    };
    let words = "beef0001 e 0 d 100 ";
    let text = format!("{words}{:x}", crc(words.as_bytes()));
    assert_eq!(request.to_string(), text);
    assert_eq!(Request::parse(text.as_bytes()), Ok(request));
}

fn typing(bytes: &[u8]) -> Request {
    Request {
        verb: Verb::Type,
        vm: 1,
        vcpu: 0,
        typed: Typed::of(bytes),
        ..REQUEST
    }
}

#[test]
fn what_is_typed_has_its_form_its_guest_and_its_bounds() {
    let words = "beef0001 i 1 6c730d1e ";
    let text = format!("{words}{:x}", crc(words.as_bytes()));
    let request = typing(b"ls\r\x1e");
    assert_eq!(request.to_string(), text);
    assert_eq!(Request::parse(text.as_bytes()), Ok(request));
    let most = [0xff; MOST_TYPED];
    assert_eq!(typing(&[0xff; MOST_TYPED + 1]).typed.bytes(), most);
    for digits in [
        "",
        "6",
        "6c7",
        "+c",
        "6 7",
        "gg",
        &"00".repeat(MOST_TYPED + 1),
    ] {
        let words = format!("beef0001 i 1 {digits} ");
        let text = format!("{words}{:x}", crc(words.as_bytes()));
        assert!(Request::parse(text.as_bytes()).is_err(), "{digits}");
    }
}

#[test]
fn who_may_do_nothing_else_may_type() {
    for access in [Access::Full, Access::Read, Access::Off] {
        assert!(
            access.allows(Verb::Type) && access.allows(Verb::Room),
            "{access:?}"
        );
    }
}

/// Whatever the line loses of what is typed to a guest: it comes to that guest or not at all.
#[test]
fn what_is_typed_to_one_guest_never_reaches_another() {
    let request = typing(b"reboot 1\r");
    for at in 0..framed(&request).len() {
        let mut bytes = framed(&request);
        bytes.remove(at);
        for input in fed(&mut Demux::new(), &bytes) {
            let is_fine = [Input::Request(request), Input::Damaged].contains(&input);
            assert!(is_fine, "byte {at}: {input:?}");
        }
    }
}

#[test]
fn base64_is_rfc_4648_s() {
    let vectors = [
        "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy",
    ];
    for (length, text) in vectors.into_iter().enumerate() {
        let bytes = &b"foobar"[..length];
        assert_eq!(Base64(bytes).to_string(), text);
        let mut read = [0; 6];
        assert_eq!(from_base64(text.as_bytes(), &mut read), Some(length));
        assert_eq!(&read[..length], bytes);
    }
    for bad in [
        "Z", "Zg=", "Zg==Zg==", "Z===", "====", "Zh==", "Zm9=", "Zm 9", "=m9v",
    ] {
        assert_eq!(from_base64(bad.as_bytes(), &mut [0; 9]), None, "{bad}");
    }
    assert_eq!(from_base64(b"Zm9v", &mut [0; 2]), None);
}

#[test]
fn one_or_two_bits_that_flip_make_no_other_request() {
    let sent = framed(&REQUEST);
    let bits = sent.len() * 8;
    let flip = |bytes: &mut [u8], bit: usize| bytes[bit / 8] ^= 1 << (bit % 8);
    for first in 0..bits {
        for second in first..bits {
            let mut bytes = sent.clone();
            flip(&mut bytes, first);
            if second != first {
                flip(&mut bytes, second);
            }
            // An end that has become an RS takes the one that follows with it, and no more.
            bytes.extend(framed(&Request { id: 7, ..REQUEST }).repeat(2));
            let came = requests(&fed(&mut Demux::new(), &bytes));
            // Hexadecimal digits of the other case say the same.
            let is_same = |request: &Request| *request == REQUEST || request.id == 7;
            assert!(
                came.iter().all(is_same),
                "bits {first} and {second}: {came:x?}"
            );
            assert_eq!(
                came.last().map(|request| request.id),
                Some(7),
                "bits {first} and {second}"
            );
        }
    }
}

#[test]
fn a_byte_that_is_lost_or_doubled_makes_no_other_request() {
    let sent = framed(&REQUEST);
    for at in 0..sent.len() {
        let mut lost = sent.clone();
        lost.remove(at);
        let mut doubled = sent.clone();
        doubled.insert(at, sent[at]);
        for mut bytes in [lost, doubled] {
            bytes.extend(framed(&Request { id: 7, ..REQUEST }).repeat(2));
            let came = requests(&fed(&mut Demux::new(), &bytes));
            let is_same = |request: &Request| *request == REQUEST || request.id == 7;
            assert!(came.iter().all(is_same), "byte {at}: {came:x?}");
            assert_eq!(came.last().map(|request| request.id), Some(7), "byte {at}");
        }
    }
}

/// Whatever the line loses of a request, what is typed in front of it and behind comes through, and nothing else is typed.
#[test]
fn a_byte_that_is_lost_is_no_input_of_the_guest_and_takes_none_away() {
    let sent = framed(&REQUEST);
    for at in 0..=sent.len() {
        let mut bytes = b"in front".to_vec();
        let (before, rest) = sent.split_at(at);
        bytes.extend([before, rest.get(1..).unwrap_or_default()].concat());
        bytes.extend([b" and ", &[RS, LITERAL][..], b"@7 behind"].concat());
        bytes.extend(framed(&Request { id: 7, ..REQUEST }));
        let inputs = fed(&mut Demux::new(), &bytes);
        let typed = inputs.iter().map(|input| match input {
            Input::Guest(byte) => vec![*byte],
            Input::GuestAfterRs(byte) => vec![RS, *byte],
            _ => vec![],
        });
        let typed = typed.collect::<Vec<_>>().concat();
        assert_eq!(
            String::from_utf8_lossy(&typed),
            "in front and \x1e@7 behind",
            "byte {at}"
        );
        let is_channel = |input: &Input| matches!(input, Input::Channel(_));
        assert!(!inputs.iter().any(is_channel), "byte {at}: {inputs:?}");
        let came = requests(&inputs);
        assert_eq!(came.last().map(|request| request.id), Some(7), "byte {at}");
        // Only text that is lost makes it another; what frames it is there twice.
        let frames = !(OPENING.len()..sent.len() - END.len()).contains(&at);
        assert_eq!(came.first() == Some(&REQUEST), frames, "byte {at}");
    }
}

#[test]
fn a_request_without_end_is_dropped_and_the_next_one_comes_through() {
    let mut demux = Demux::new();
    let mut bytes = vec![RS, b'@'];
    bytes.resize(10 << 20, b'7');
    assert_eq!(fed(&mut demux, &bytes), []);
    let inputs = fed(&mut demux, &framed(&REQUEST));
    assert_eq!(inputs, [Input::Damaged, Input::Request(REQUEST)]);
}

#[test]
fn what_a_person_types_after_rs_is_the_guest_s_unless_it_has_a_meaning() {
    let inputs = fed(&mut Demux::new(), b"a\x1eb\x1e.c\x1e\x1e3");
    assert_eq!(
        inputs,
        [
            Input::Guest(b'a'),
            Input::GuestAfterRs(b'b'),
            Input::Guest(RS),
            Input::Guest(b'c'),
            Input::Channel(3),
        ]
    );
}

proptest! {
    #[test]
    fn base64_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let text = Base64(&bytes).to_string();
        prop_assert_eq!(text.len(), bytes.len().div_ceil(3) * 4);
        let mut read = vec![0; bytes.len()];
        prop_assert_eq!(from_base64(text.as_bytes(), &mut read), Some(bytes.len()));
        prop_assert_eq!(read, bytes);
    }

    /// Typed bytes whose RS are followed by `.`, with requests between any two of them, come out as they were.
    #[test]
    fn typed_bytes_come_through_beside_requests(typed in proptest::collection::vec(any::<u8>(), 0..200), every in 1usize..20) {
        let mut bytes = Vec::new();
        for (at, &byte) in typed.iter().enumerate() {
            if at % every == 0 {
                bytes.extend(framed(&REQUEST));
            }
            bytes.push(byte);
            if byte == RS {
                bytes.push(LITERAL);
            }
        }
        let inputs = fed(&mut Demux::new(), &bytes);
        let came = inputs.iter().filter_map(|input| match input {
            Input::Guest(byte) => Some(*byte),
            _ => None,
        });
        prop_assert_eq!(came.collect::<Vec<u8>>(), typed.clone());
        prop_assert_eq!(requests(&inputs).len(), typed.len().div_ceil(every));
        prop_assert!(!inputs.contains(&Input::Damaged));
    }

    /// Any bytes at all: no request comes of them, since none has its checksum.
    #[test]
    fn noise_is_no_request(noise in proptest::collection::vec(prop_oneof![Just(RS), Just(b'@'), Just(b'\n'), Just(b' '), b'0'..=b'9', any::<u8>()], 0..500)) {
        let inputs = fed(&mut Demux::new(), &noise);
        prop_assert_eq!(requests(&inputs), []);
    }
}

/// What noise is made of: any byte, and more often those that mean something.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        any::<u8>(),
        Just(RS),
        Just(b'@'),
        Just(b'\n'),
        Just(b' '),
        proptest::sample::select(b"0123456789abcdefnsmrb".to_vec()),
    ];
    proptest::collection::vec(byte, 0..200)
}

proptest! {
    #[test]
    fn through_noise_come_the_requests_that_were_sent_and_no_others(
        parts in proptest::collection::vec(noise(), 1..8),
    ) {
        let mut demux = Demux::new();
        for (id, part) in (1..).zip(parts) {
            let noise = fed(&mut demux, &part);
            prop_assert_eq!(requests(&noise), []);
            // As whoever is not answered sends it again: an RS at the end of the noise takes the first with it.
            let sent = Request { id, ..REQUEST };
            let came = requests(&fed(&mut demux, &framed(&sent).repeat(2)));
            prop_assert!(!came.is_empty());
            prop_assert!(came.iter().all(|request| *request == sent));
        }
    }
}
