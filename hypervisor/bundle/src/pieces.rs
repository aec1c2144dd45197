//! A guest's memory in words, for the boot log.

use core::fmt;

use platform::Range;

/// Pieces of memory, displayed as their sum and where each is.
#[derive(Clone, Copy, Debug)]
pub struct Pieces<'a>(pub &'a [Range]);

/// A size, exactly: in MiB, or where that is not whole in KiB, which pages always are.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        if bytes.is_multiple_of(1 << 20) {
            write!(f, "{} MiB", bytes >> 20)
        } else {
            write!(f, "{} KiB", bytes >> 10)
        }
    }
}

impl fmt::Display for Pieces<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum: u64 = self.0.iter().map(|piece| piece.size).sum();
        write!(f, "{} of memory", Size(sum))?;
        // One alone needs no size of its own.
        let is_only = self.0.len() == 1;
        let mut before = if is_only { "" } else { ":" };
        for piece in self.0 {
            write!(f, "{before}")?;
            if !is_only {
                write!(f, " {}", Size(piece.size))?;
            }
            write!(f, " at {:#x}", piece.start)?;
            before = " and";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn no_more_is_said_to_be_at_a_place_than_is_there() {
        let low = Range::new(0x20_0000, 946 << 20);
        let high = Range::new(0x4000_0000, 1020 << 20);
        assert_eq!(
            Pieces(&[high]).to_string(),
            "1020 MiB of memory at 0x40000000"
        );
        assert_eq!(
            Pieces(&[low, high]).to_string(),
            "1966 MiB of memory: 946 MiB at 0x200000 and 1020 MiB at 0x40000000"
        );
        assert_eq!(Pieces(&[]).to_string(), "0 MiB of memory");
        let less = Range::new(0x1000, (946 << 20) - 0x1000);
        assert_eq!(
            Pieces(&[less, high]).to_string(),
            "2013180 KiB of memory: 968700 KiB at 0x1000 and 1020 MiB at 0x40000000"
        );
    }
}
