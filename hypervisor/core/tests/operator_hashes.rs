//! The operator has the pages of a guest hashed: while it is paused, so many for one request, and of its RAM alone.

use hv_abi::operator::hashes::{MOST_PAGES, MOST_WORDS, PAGE, WORD, Word};
use hv_abi::operator::{OPENING, Request, Span, Verb};
use hv_core::vm::Refusal;
use hv_testbed::{Built, Machine, RAM, Told, page_word};

fn ask(machine: &mut Machine, request: Request) -> Vec<Told> {
    let text = format!("{request}\n");
    for byte in OPENING.into_iter().chain(text.bytes()) {
        machine.receive(byte);
    }
    machine.settle();
    machine.answers()
}

fn hashes(ipa: u64, length: u16) -> Request {
    Request {
        span: Span { ipa, length },
        ..Request::new(7, Verb::Hashes, 0, 0)
    }
}

/// A guest of two vCPUs that is paused.
fn paused() -> Machine {
    let mut machine = Built::new(2).start();
    machine.turn_on(0, 1);
    let _ = ask(&mut machine, Request::new(1, Verb::Freeze, 0, 0));
    machine
}

/// What is answered: the words, or the first address without RAM.
fn words(machine: &mut Machine, ipa: u64, length: u16) -> Result<Vec<Word>, u64> {
    let told = ask(machine, hashes(ipa, length));
    let [
        Told::Memory {
            id: 7,
            ipa: at,
            data,
        },
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!(*at, ipa);
    let data = data.clone()?;
    let words = data.chunks_exact(WORD);
    assert_eq!(words.remainder(), [0u8; 0]);
    Ok(words
        .map(|word| Word::of_bits(u64::from_be_bytes(word.try_into().unwrap())))
        .collect())
}

#[test]
fn all_pages_are_hashed_by_requests_that_follow_each_other() {
    let mut machine = paused();
    let all = 3000u64;
    let mut found = Vec::new();
    let mut requests = 0;
    while (found.len() as u64) < all {
        let done = found.len() as u64;
        let wanted = (all - done).min(MOST_PAGES.into());
        let words = words(&mut machine, RAM.start + done * PAGE, wanted as u16).unwrap();
        assert!((1..=MOST_WORDS).contains(&words.len()));
        let pages: u64 = words.iter().map(|word| word.pages()).sum();
        assert!((1..=wanted).contains(&pages), "{pages} of {wanted}");
        found.extend(words.into_iter().flat_map(|word| match word {
            Word::Hash(_) => vec![word],
            Word::Zeros(count) => vec![Word::Zeros(1); count as usize],
        }));
        requests += 1;
    }
    let expected: Vec<Word> = (0..all).map(|n| page_word(RAM.start + n * PAGE)).collect();
    assert_eq!(found, expected);
    // Half of the pages are hashes, and each four pages of zeros are a word.
    assert!(requests <= all / 150, "{requests} requests");
}

#[test]
fn what_is_no_ram_is_not_hashed() {
    let mut machine = paused();
    let end = RAM.start + RAM.size;
    for (ipa, length, outside) in [
        (RAM.start - PAGE, 2, RAM.start - PAGE),
        (end - PAGE, 2, end),
        (end, 1, end),
        (0, 1, 0),
        (!(PAGE - 1), 1, !(PAGE - 1)),
    ] {
        assert_eq!(words(&mut machine, ipa, length), Err(outside), "{ipa:#x}");
    }
    assert_eq!(words(&mut machine, end - PAGE, 1).unwrap().len(), 1);
}

#[test]
fn a_guest_that_runs_or_is_off_is_not_hashed() {
    let mut machine = Built::new(2).start();
    let refusal = |machine: &mut Machine| match ask(machine, hashes(RAM.start, 1))[..] {
        [Told::Vm { id: 7, refusal, .. }] => refusal,
        ref told => panic!("{told:?}"),
    };
    assert_eq!(refusal(&mut machine), Some(Refusal::Running));
    let _ = ask(&mut machine, Request::new(1, Verb::Freeze, 0, 0));
    assert!(words(&mut machine, RAM.start, 1).is_ok());
    let _ = ask(&mut machine, Request::new(2, Verb::Thaw, 0, 0));
    assert_eq!(refusal(&mut machine), Some(Refusal::Running));
    let _ = ask(&mut machine, Request::new(3, Verb::Off, 0, 0));
    machine.finish_end();
    machine.settle();
    assert_eq!(refusal(&mut machine), Some(Refusal::Off));
}
