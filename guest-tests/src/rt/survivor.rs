//! One word of RAM outside the image, which a reset does not clear: how a test knows it booted before.

use super::machine::machine;

unsafe extern "C" {
    static __image_end: u8;
}

/// Far enough above the image that no loader puts anything of ours there.
const DISTANCE: u64 = 8 << 20;

/// The bits that count boots.
const COUNT: u64 = 0xffff;

/// Address of RAM in the same page that survives too, for what a test needs besides.
pub fn spare() -> u64 {
    word() as u64 + 0x100
}

/// Keeps a number for the next boot, and answers what the boot before kept.
pub fn exchange(number: u64) -> u64 {
    let place = word().wrapping_add(1);
    // SAFETY: the doubleword behind the count; aligned RAM of ours that Rust uses for nothing else.
    let before = unsafe { place.read_volatile() };
    // SAFETY: as above.
    unsafe { place.write_volatile(number) };
    super::sysreg::clean_to_memory(place as u64);
    before
}

/// Number `n`, below 16, that an earlier boot kept.
pub fn kept(n: usize) -> u64 {
    // SAFETY: aligned RAM of ours in the same page that Rust uses for nothing else.
    unsafe { kept_place(n).read_volatile() }
}

/// Keeps number `n` for the next boots.
pub fn keep(n: usize, value: u64) {
    // SAFETY: as above.
    unsafe { kept_place(n).write_volatile(value) };
    super::sysreg::clean_to_memory(kept_place(n) as u64);
}

fn kept_place(n: usize) -> *mut u64 {
    assert!(n < 16, "there is no number {n}");
    word().wrapping_add(64 + n)
}

fn word() -> *mut u64 {
    let end = &raw const __image_end as u64;
    let address = (end + DISTANCE) & !0xfff;
    assert!(
        machine().home().contains(address),
        "no RAM {DISTANCE:#x} above the image"
    );
    address as *mut u64
}

/// Counts this boot of the test that `name` stands for: 1 for the first.
pub fn count_boot(name: &str) -> u64 {
    // FNV-1a, so that what was in RAM by accident, or by another test, counts as nothing.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    }) & !COUNT;
    // SAFETY: aligned RAM of ours that Rust uses for nothing else.
    let before = unsafe { word().read_volatile() };
    let boots = if before & !COUNT == hash {
        (before & COUNT) + 1
    } else {
        1
    };
    // SAFETY: as above.
    unsafe { word().write_volatile(hash | boots) };
    super::sysreg::clean_to_memory(word() as u64);
    boots
}

/// Lets the next boot be the first again.
pub fn forget() {
    // SAFETY: as in `count_boot`.
    unsafe { word().write_volatile(0) };
}
