//! No blob, however damaged, makes discovery panic.

#[path = "data/trees.rs"]
mod trees;

use platform::{Console, Machine};
use proptest::prelude::*;
use trees::{GicVersion, pi, virt};

fn read(dtb: &[u8]) {
    // Whether it is refused depends on what was hit; returning at all is the claim.
    let _ = Machine::discover(dtb);
    let _ = Console::locate(dtb, 1 << 39);
}

#[test]
fn no_flipped_bit_makes_discovery_panic() {
    for mut dtb in [virt(1, GicVersion::V3).to_dtb(), pi().to_dtb()] {
        // Every seventh byte, each time another bit: all places within a word, all kinds of token.
        for byte in (0..dtb.len()).step_by(7) {
            let bit = 1 << (byte / 7 % 8);
            dtb[byte] ^= bit;
            read(&dtb);
            dtb[byte] ^= bit;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_make_discovery_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        read(&bytes);
    }

    #[test]
    fn no_structure_makes_discovery_panic(words in proptest::collection::vec(
        prop_oneof![0u32..10, Just(0), Just(1), Just(2), Just(3), Just(4), any::<u32>()], 0..64,
    )) {
        // A sound header, reservation block and strings around an arbitrary structure block.
        let mut dtb = Vec::new();
        let size = words.len() as u32 * 4;
        let strings = b"reg\0interrupts\0compatible\0#address-cells\0";
        let total = 56 + size + strings.len() as u32;
        for word in [0xd00d_feed, total, 56, 56 + size, 40, 17, 16, 0, strings.len() as u32, size, 0, 0, 0, 0] {
            dtb.extend_from_slice(&word.to_be_bytes());
        }
        for word in words {
            dtb.extend_from_slice(&word.to_be_bytes());
        }
        dtb.extend_from_slice(strings);
        read(&dtb);
    }

    #[test]
    fn no_overwritten_words_make_discovery_panic(
        changes in proptest::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![0u32..10, any::<u32>()]), 1..6,
        ),
        board in any::<bool>(),
    ) {
        let mut dtb = if board { pi() } else { virt(2, GicVersion::V2) }.to_dtb();
        for (place, word) in changes {
            let at = place.index(dtb.len() / 4) * 4;
            dtb[at..at + 4].copy_from_slice(&word.to_be_bytes());
        }
        read(&dtb);
    }
}
