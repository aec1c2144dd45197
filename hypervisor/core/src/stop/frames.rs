//! The backtrace of a guest: its frame records, as far as they can be followed.

/// How many callers are remembered.
pub const MOST: usize = 12;

/// Where the callers of the guest's code will go on, innermost first; 0 behind the last.
///
/// A frame record is two doublewords: where the caller's record is, and the return address (AAPCS64 6.4.6). `frame` is
/// where the first one is, TCR_EL1 is `tcr`, and `read` reads a doubleword of the guest's virtual memory. A
/// guest's records may be anything: it ends at the first that cannot be read, and in any case after [`MOST`].
pub fn callers(mut frame: u64, tcr: u64, mut read: impl FnMut(u64) -> Option<u64>) -> [u64; MOST] {
    let mut callers = [0; MOST];
    for caller in &mut callers {
        let next = read(frame);
        let address = read(frame.wrapping_add(8)).filter(|&address| address != 0);
        let (Some(next), Some(address)) = (next, address) else {
            break;
        };
        *caller = without_code(address, tcr);
        frame = next;
    }
    callers
}

/// `address` without the authentication code that FEAT_PAuth puts above the bits an address has in this
/// half of the address space: 64 - TCR_EL1.T1SZ if bit 55 is set, else 64 - TCR_EL1.T0SZ (DDI0487 D8.10).
const fn without_code(address: u64, tcr: u64) -> u64 {
    let is_upper = address & 1 << 55 != 0;
    let unused = if is_upper { tcr >> 16 } else { tcr } & 0x3f;
    let above = !(u64::MAX >> unused);
    if is_upper {
        address | above
    } else {
        address & !above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCR: u64 = 16 | 25 << 16;

    fn memory<'a>(records: &'a [(u64, u64, u64)]) -> impl Fn(u64) -> Option<u64> + 'a {
        |va| {
            records.iter().find_map(|&(at, next, address)| match va {
                _ if va == at => Some(next),
                _ if va == at + 8 => Some(address),
                _ => None,
            })
        }
    }

    #[test]
    fn records_are_followed_to_the_first_that_is_none() {
        let records = [
            (0x100, 0x200, 0x1000),
            (0x200, 0x80, 0x2000),
            (0x80, 0, 0x3000),
        ];
        let found = callers(0x100, TCR, memory(&records));
        assert_eq!(found[..4], [0x1000, 0x2000, 0x3000, 0]);
        assert_eq!(callers(0x300, TCR, memory(&records)), [0; MOST]);
        assert_eq!(callers(u64::MAX, TCR, memory(&records)), [0; MOST]);
    }

    #[test]
    fn a_return_address_of_zero_is_the_end() {
        let records = [(0x100, 0x200, 0x1000), (0x200, 0x100, 0)];
        assert_eq!(callers(0x100, TCR, memory(&records))[..2], [0x1000, 0]);
    }

    #[test]
    fn records_that_run_in_a_circle_end() {
        let records = [(0x100, 0x200, 0x1000), (0x200, 0x100, 0x2000)];
        let found = callers(0x100, TCR, memory(&records));
        assert_eq!(found[MOST - 2..], [0x1000, 0x2000]);
    }

    #[test]
    fn authentication_codes_are_taken_off() {
        // 39 bits above, 48 below.
        let signed = [
            (0, 0x10, 0x12b5_5d80_0012_3454),
            (0x10, 0, 0xab5d_0000_0040_0120),
        ];
        let found = callers(0, TCR, memory(&signed));
        assert_eq!(found[..2], [0xffff_ff80_0012_3454, 0x0000_0000_0040_0120]);
        // With the MMU as it is out of reset nothing is known.
        assert_eq!(
            without_code(0x1234_0000_0000_0010, 0),
            0x1234_0000_0000_0010
        );
    }
}
