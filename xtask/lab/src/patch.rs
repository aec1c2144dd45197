//! Changes to the instructions of a kernel's Image, by the addresses that it was linked to.

use anyhow::{Context, Result, ensure};
use hv_abi::sdei::{Definition, Priority, Scope};
use hv_abi::watchdog::Nmi;

use crate::symbols::Symbols;

/// The SDEI event by which the kernel panics that [`panic_by_event`] has changed.
pub const PANIC_EVENT: Definition = Definition {
    number: 0x100,
    scope: Scope::Private,
    priority: Priority::Critical,
};

/// Why it says that it panics then.
pub const PANIC: &str = "dumptest";

/// An NMI that raises it.
pub fn panic_nmi() -> Nmi {
    Nmi {
        event: PANIC_EVENT.number,
        ..Nmi::default()
    }
}

/// Where Linux registers its handler of event 0 and says so, and what it calls for that.
const INIT: &str = "sdei_nmi_init";
const REGISTER: &str = "sdei_event_register";
const ENABLE: &str = "sdei_event_enable";
const SAY: &str = "_printk";
/// So many instructions of it are looked at.
const MOST: u64 = 64;
/// What LKDTM has for a panic, which will be the handler; and a function of its own, of which nobody has need here.
const HANDLER: &str = "lkdtm_PANIC";
const UNUSED: &str = "lkdtm_CORRUPT_LIST_DEL";

/// What sysrq-c calls.
const CRASH: &str = "sysrq_handle_crash";

/// An Image, and its functions.
pub struct Code<'a> {
    image: &'a mut [u8],
    symbols: &'a Symbols,
    start: u64,
}

impl<'a> Code<'a> {
    /// Of a kernel whose functions are `symbols`.
    pub fn of(image: &'a mut [u8], symbols: &'a Symbols) -> Result<Self> {
        let start = symbols.text().context("the kernel has no _text")?;
        Ok(Self {
            image,
            symbols,
            start,
        })
    }

    /// Where that function begins.
    pub fn function(&self, name: &str) -> Result<u64> {
        let address = self.symbols.address(name);
        address.with_context(|| format!("the kernel has no function {name}"))
    }

    fn at(&mut self, address: u64) -> Option<&mut [u8; 4]> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        self.image.get_mut(at..)?.first_chunk_mut()
    }

    /// The instruction there.
    pub fn word(&mut self, address: u64) -> Option<u32> {
        self.at(address).map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// Replaces it.
    pub fn set(&mut self, address: u64, word: u32) -> Result<()> {
        let bytes = self.at(address);
        let bytes = bytes.with_context(|| format!("{address:#x} is not in the kernel's Image"))?;
        *bytes = word.to_le_bytes();
        Ok(())
    }

    /// Replaces those from `address` on, all of which are in the function `name`.
    pub fn fill(&mut self, name: &str, address: u64, words: &[u32]) -> Result<()> {
        for (at, &word) in (address..).step_by(4).zip(words) {
            let inside = self.symbols.function(at);
            ensure!(
                inside.is_some_and(|(own, _)| own == name),
                "{name} is too short"
            );
            self.set(at, word)?;
        }
        Ok(())
    }

    /// The first call of `name` from `address` on.
    fn call(&mut self, address: u64, name: &str) -> Result<u64> {
        let to = self.function(name)?;
        let mut places = (0..MOST).map(|n| address + 4 * n);
        let is_it = |at: &u64| call(*at, to).is_ok_and(|word| self.word(*at) == Some(word));
        places
            .find(is_it)
            .with_context(|| format!("{INIT} does not call {name} as it is known to"))
    }
}

/// Has a CPU that is wedged write to its stack, below all that is in use there, again and again: it waits in its loop by YIELD, in whose place that
/// is.
///
/// # Errors
///
/// If the kernel's code is not as it is known to be.
pub fn write_while_wedged(image: &mut [u8], symbols: &Symbols) -> Result<()> {
    const LOOP: &str = "lkdtm_HARDLOCKUP";
    // DDI0487 C6.2: YIELD, and STUR XZR, [SP, #-16].
    const YIELD: u32 = 0xd503_203f;
    const STORE: u32 = 0xf81f_03ff;
    let mut code = Code::of(image, symbols)?;
    let start = code.function(LOOP)?;
    let mut places = (0..MOST).map(|n| start + 4 * n);
    let place = places.find(|&at| code.word(at) == Some(YIELD));
    let place = place.with_context(|| format!("{LOOP} has no YIELD"))?;
    code.fill(LOOP, place, &[STORE])
}

/// Has the kernel register [`PANIC_EVENT`] and enable it, where it says that it has registered event 0: LKDTM's panic is its handler.
///
/// # Errors
///
/// If the kernel's code is not as it is known to be.
pub fn panic_by_event(image: &mut [u8], symbols: &Symbols) -> Result<()> {
    let mut code = Code::of(image, symbols)?;
    let init = code.function(INIT)?;
    code.call(init, REGISTER)?;
    let enabled = code.call(init, ENABLE)?;
    let said = code.call(enabled, SAY)?;
    let own = code.function(UNUSED)?;
    let (register, enable) = (code.function(REGISTER)?, code.function(ENABLE)?);
    let number = 0x5280_0000 | PANIC_EVENT.number << 5;
    let words = [
        // STP x29, x30, [sp, #-16]!; MOV w0, the number; ADR x1, the handler; MOV x2, #0; BL (DDI0487 C6.2).
        0xa9bf_7bfd,
        number,
        address_of(own + 8, code.function(HANDLER)?)?,
        0xd280_0002,
        call(own + 16, register)?,
        // MOV w0, the number; BL; LDP x29, x30, [sp], #16; RET.
        number,
        call(own + 24, enable)?,
        0xa8c1_7bfd,
        0xd65f_03c0,
    ];
    code.fill(UNUSED, own, &words)?;
    code.set(said, call(said, own)?)
}

/// Has CPUs that sysrq-c makes panic wait for each other before: two, with interrupts masked, so that the first one's stop does not
/// reach the second one on its way.
///
/// # Errors
///
/// If the kernel's code is not as it is known to be.
pub fn panic_together(image: &mut [u8], symbols: &Symbols) -> Result<()> {
    let mut code = Code::of(image, symbols)?;
    let (crash, own) = (code.function(CRASH)?, code.function(UNUSED)?);
    let first = code.word(crash).filter(|&word| !depends_on_place(word));
    let first = first.with_context(|| {
        format!("the first instruction of {CRASH} depends on where it stands, and cannot be moved")
    })?;
    let count = symbols.spare().context("the kernel has no spare memory")?;
    let count = count.next_multiple_of(4);
    let words = [
        // MSR DAIFSet, #2; ADRP x9; ADD x9, x9 (DDI0487 C6.2).
        0xd503_42df,
        page_of(own + 4, count)?,
        0x9100_0129 | (count as u32 & 0xfff) << 10,
        // One more is there: LDXR w10, [x9]; ADD w10, w10, #1; STXR w11, w10, [x9]; CBNZ w11, to the first of these.
        0x885f_7d2a,
        0x1100_054a,
        0x880b_7d2a,
        0x35ff_ffab,
        // Until there are two: LDAR w10, [x9]; CMP w10, #2; B.LO to the first of these.
        0x88df_fd2a,
        0x7100_095f,
        0x54ff_ffc3,
        first,
        branch(own + 44, crash + 4)?,
    ];
    code.fill(UNUSED, own, &words)?;
    code.set(crash, branch(crash, own)?)
}

/// Whether an instruction does something else elsewhere: it branches, or names a place by its distance (DDI0487 C4.1).
fn depends_on_place(word: u32) -> bool {
    // A mask, and what is left: ADR and ADRP; B and BL; B.cond; CBZ, CBNZ, TBZ and TBNZ; BR, BLR, RET and ERET; a load of a literal.
    const KINDS: [(u32, u32); 6] = [
        (0x1f00_0000, 0x1000_0000),
        (0x7c00_0000, 0x1400_0000),
        (0xff00_0000, 0x5400_0000),
        (0x7c00_0000, 0x3400_0000),
        (0xfe00_0000, 0xd600_0000),
        (0x3b00_0000, 0x1800_0000),
    ];
    KINDS.iter().any(|(mask, kind)| word & mask == *kind)
}

/// B from one address to another (DDI0487 C6.2).
pub fn branch(from: u64, to: u64) -> Result<u32> {
    let words = to.wrapping_sub(from) as i64 >> 2;
    ensure!(
        (-(1 << 25)..1 << 25).contains(&words),
        "{to:#x} is too far from {from:#x}"
    );
    Ok(0x1400_0000 | words as u32 & 0x03ff_ffff)
}

/// BL (DDI0487 C6.2).
fn call(from: u64, to: u64) -> Result<u32> {
    Ok(branch(from, to)? | 1 << 31)
}

/// ADR x1 (DDI0487 C6.2).
fn address_of(from: u64, to: u64) -> Result<u32> {
    let bytes = to.wrapping_sub(from) as i64;
    ensure!(
        (-(1 << 20)..1 << 20).contains(&bytes),
        "{to:#x} is too far from {from:#x}"
    );
    let bytes = bytes as u32;
    Ok(0x1000_0001 | (bytes & 0b11) << 29 | (bytes >> 2 & 0x7_ffff) << 5)
}

/// ADRP x9 (DDI0487 C6.2).
fn page_of(from: u64, to: u64) -> Result<u32> {
    let pages = (to >> 12).wrapping_sub(from >> 12) as i64;
    ensure!(
        (-(1 << 20)..1 << 20).contains(&pages),
        "{to:#x} is too far from {from:#x}"
    );
    let pages = pages as u32;
    Ok(0x9000_0009 | (pages & 0b11) << 29 | (pages >> 2 & 0x7_ffff) << 5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::tests::program;

    const TEXT: u64 = 0x1_0000;
    const RET: u32 = 0xd65f_03c0;

    /// Functions of 4 KiB one after the other, from _text on.
    fn kernel() -> (Vec<u8>, Symbols) {
        let names = ["_text", INIT, REGISTER, ENABLE, SAY, HANDLER, UNUSED];
        let symbols: Vec<_> = (0..)
            .zip(names)
            .map(|(n, name)| (TEXT + 0x1000 * n, name))
            .collect();
        let mut words = vec![RET; 7 * 0x400];
        // Of INIT, at 0x11000: one call of each.
        for (n, to) in [(1, 0x1_2000u64), (4, 0x1_3000), (6, 0x1_4000)] {
            words[0x400 + n] = call(0x1_1000 + 4 * n as u64, to).unwrap();
        }
        let bytes = words.iter().flat_map(|word: &u32| word.to_le_bytes());
        (bytes.collect(), program(&symbols))
    }

    fn word(image: &[u8], address: u64) -> u32 {
        let at = (address - TEXT) as usize;
        u32::from_le_bytes(image[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn a_kernel_registers_the_event_where_it_says_that_it_has_registered_another() {
        let (mut image, symbols) = kernel();
        panic_by_event(&mut image, &symbols).unwrap();
        // Instead of saying so it calls the function that nobody has need of, and all else of it stays.
        assert_eq!(word(&image, 0x1_1018), call(0x1_1018, 0x1_6000).unwrap());
        assert_eq!(word(&image, 0x1_1010), call(0x1_1010, 0x1_3000).unwrap());
        let own: Vec<u32> = (0..10).map(|n| word(&image, 0x1_6000 + 4 * n)).collect();
        assert_eq!(
            own,
            [
                0xa9bf_7bfd,
                0x5280_2000,
                // ADR x1, -0x1008.
                0x10ff_7fc1,
                0xd280_0002,
                0x97ff_effc,
                0x5280_2000,
                0x97ff_f3fa,
                0xa8c1_7bfd,
                RET,
                RET,
            ]
        );
    }

    #[test]
    fn who_panics_by_sysrq_waits_for_another() {
        const PACIASP: u32 = 0xd503_233f;
        let symbols = [("_text", TEXT), (CRASH, 0x1_1000), (UNUSED, 0x1_2000)];
        let all = symbols.iter().chain([&("data_area", 0x4_5678)]);
        let all: Vec<_> = all.map(|&(name, at)| (at, name)).collect();
        let mut words = vec![RET; 3 * 0x400];
        words[0x400] = PACIASP;
        let image: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut changed = image.clone();
        panic_together(&mut changed, &program(&all)).unwrap();
        assert_eq!(
            word(&changed, 0x1_1000),
            branch(0x1_1000, 0x1_2000).unwrap()
        );
        assert_eq!(word(&changed, 0x1_1004), RET);
        // The page of the count is 0x33 pages further on: ADRP x9, and its offset there.
        assert_eq!(word(&changed, 0x1_2004), 0xf000_0189);
        assert_eq!(word(&changed, 0x1_2008), 0x9119_e129);
        assert_eq!(word(&changed, 0x1_2028), PACIASP);
        assert_eq!(
            word(&changed, 0x1_202c),
            branch(0x1_202c, 0x1_1004).unwrap()
        );
        // Another beginning may depend on where it is, and nobody knows what memory is spare without its symbol.
        let mut other = image.clone();
        other[0x1000..0x1004].copy_from_slice(&0x9000_0009u32.to_le_bytes());
        let before = other.clone();
        assert!(panic_together(&mut other, &program(&all)).is_err());
        assert_eq!(other, before);
        let mut other = image;
        assert!(panic_together(&mut other, &program(&all[..3])).is_err());
    }

    #[test]
    fn what_depends_on_its_place_is_known() {
        // B, BL, B.EQ, CBZ, CBNZ, TBZ, TBNZ, ADR, ADRP, LDR (literal) of 32 and 64 bits and of a vector, PRFM, BR, BLR, RET, RETAA.
        let depends = [
            0x1400_0001,
            0x9400_0001,
            0x5400_0020,
            0x3400_0020,
            0xb500_0020,
            0x3600_0020,
            0xb700_0020,
            0x1000_0020,
            0x9000_0020,
            0x1800_0020,
            0x5800_0020,
            0x9c00_0020,
            0xd800_0020,
            0xd61f_0000,
            0xd63f_0000,
            RET,
            0xd65f_0bff,
        ];
        assert!(depends.into_iter().all(depends_on_place));
        // PACIASP, BTI c, NOP, STP x29, x30, [sp, #-16]!, STR x30, [x18], #8, SUB sp, sp, #16, MOV x9, x30, MRS x0, SP_EL0.
        let others = [
            0xd503_233f,
            0xd503_245f,
            0xd503_201f,
            0xa9bf_7bfd,
            0xf800_865e,
            0xd100_43ff,
            0xaa1e_03e9,
            0xd538_4100,
        ];
        assert!(!others.into_iter().any(depends_on_place));
    }

    #[test]
    fn a_kernel_that_calls_something_else_is_left_alone() {
        let (mut image, symbols) = kernel();
        image[0x1010..0x1014].copy_from_slice(&RET.to_le_bytes());
        let before = image.clone();
        let error = panic_by_event(&mut image, &symbols).unwrap_err();
        assert!(error.to_string().contains(ENABLE), "{error}");
        assert_eq!(image, before);
    }

    #[test]
    fn branches_have_a_reach() {
        assert_eq!(branch(0x1000, 0xff8).unwrap(), 0x17ff_fffe);
        assert!(branch(0, 1 << 27).is_err());
        assert!(address_of(0, 1 << 20).is_err());
        assert_eq!(address_of(0, 5).unwrap(), 0x3000_0021);
    }
}
