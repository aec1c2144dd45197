//! What the cells of a GIC interrupt specifier mean (Linux bindings `arm,gic` and `arm,gic-v3`).

/// One interrupt a device raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Its number at the GIC.
    pub intid: u32,
    /// Whether it is edge-triggered.
    pub edge: bool,
}

impl Interrupt {
    /// Decodes type, number and flags; `None` if a GIC has no such interrupt.
    pub fn decode(specifier: &[u8]) -> Option<Self> {
        let (cells, _) = specifier.as_chunks::<4>();
        let &[kind, number, flags, ..] = cells else {
            return None;
        };
        let number = u32::from_be_bytes(number);
        // The spaces intids are divided into: IHI0069 2.2.
        let (base, count) = match u32::from_be_bytes(kind) {
            0 => (32, 988),
            1 => (16, 16),
            2 => (4096, 1024),
            3 => (1056, 64),
            _ => return None,
        };
        (number < count).then(|| Self {
            intid: base + number,
            // 1: rising edge, 2: falling edge, 4: high, 8: low.
            edge: u32::from_be_bytes(flags) & 0x3 != 0,
        })
    }

    /// Whether it is one for all CPUs, an SPI.
    pub const fn is_shared(self) -> bool {
        matches!(self.intid, 32..1020 | 4096..)
    }
}

#[cfg(test)]
mod tests {
    use super::Interrupt;
    use alloc::vec::Vec;

    fn decode(cells: &[u32]) -> Option<Interrupt> {
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        Interrupt::decode(&bytes)
    }

    #[test]
    fn each_kind_has_its_own_intids() {
        let level = |intid| Some(Interrupt { intid, edge: false });
        assert_eq!(decode(&[0, 1, 4]), level(33));
        assert_eq!(decode(&[1, 9, 8]), level(25));
        assert_eq!(decode(&[2, 0, 4]), level(4096));
        assert_eq!(decode(&[3, 1, 4]), level(1057));
    }

    #[test]
    fn both_edges_are_edges() {
        assert_eq!(
            decode(&[0, 0x10, 1]),
            Some(Interrupt {
                intid: 48,
                edge: true
            })
        );
        assert!(decode(&[0, 0x10, 2]).is_some_and(|interrupt| interrupt.edge));
    }

    #[test]
    fn what_no_gic_has_is_refused() {
        assert_eq!(decode(&[0, 988, 4]), None);
        assert_eq!(decode(&[1, 16, 4]), None);
        assert_eq!(decode(&[4, 0, 4]), None);
        assert_eq!(decode(&[0, 1]), None);
    }
}
