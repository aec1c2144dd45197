//! At which level a walk of the guest's own tables ends (DDI0487 D8.2 and D8.3). The hardware says that an abort was on a
//! walk, and of which page, but not of which level.

/// The registers that say how EL1 and EL0 translate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regime {
    /// SCTLR_EL1.
    pub sctlr: u64,
    /// TCR_EL1.
    pub tcr: u64,
    /// TTBR0_EL1 and TTBR1_EL1.
    pub ttbr: [u64; 2],
}

/// SCTLR_EL1.EE: tables are big-endian.
const EE: u64 = 1 << 25;
/// TCR_EL1.DS: addresses of 52 bits with granules of 4 and 16 KiB.
const DS: u64 = 1 << 59;
/// A descriptor that leads to a table of the next level.
const TABLE: u64 = 0b11;

impl Regime {
    /// The level, -1 to 3, of the first entry in the walk for `va` that `read` has not got: an entry's bytes by its physical
    /// address. If there is none, the tables are not what they were when the hardware walked them, and it is the level at which
    /// they do not go on.
    pub fn last_level(&self, va: u64, read: impl Fn(u64) -> Option<[u8; 8]>) -> i8 {
        let half = (va >> 55 & 1) as usize;
        let field = |of_lower: u32, of_upper: u32| self.tcr >> [of_lower, of_upper][half & 1];
        // TG0 and TG1 have different codes. The hardware has walked, so it is one of these.
        let page = match (half, field(14, 30) & 0b11) {
            (0, 0b01) | (1, 0b11) => 16u32,
            (0, 0b10) | (1, 0b01) => 14,
            _ => 12,
        };
        let is_large = page == 16;
        let has_ds = self.tcr & DS != 0 && !is_large;
        // IPS: 52 bits with granules of 64 KiB.
        let has_52 = is_large && self.tcr >> 32 & 0b111 == 0b110;
        let most = if has_ds || is_large { 52 } else { 48 };
        // T0SZ, T1SZ. What is out of range is taken for the nearest value (D8.2.7); the least is that of FEAT_TTST.
        let bits = (64 - (field(0, 16) & 0x3f) as u32).clamp(page + 1, most);

        let stride = page - 3;
        let levels = (bits - page).div_ceil(stride);
        let mut level = 4 - levels as i8;
        let mut shift = page + (levels - 1) * stride;
        let base = self.ttbr[half & 1];
        // BADDR: aligned to the table's size, and to 64 bytes at least.
        let alignment = (bits - shift + 3).max(6);
        let mut table = base & low(48) & !low(alignment);
        if has_ds || has_52 {
            table |= (base >> 2 & 0xf) << 48;
        }
        while shift > page {
            let index = va >> shift & low(stride.min(bits - shift));
            let Some(bytes) = read(table | index << 3) else {
                break;
            };
            let descriptor = if self.sctlr & EE != 0 {
                u64::from_be_bytes(bytes)
            } else {
                u64::from_le_bytes(bytes)
            };
            if descriptor & TABLE != TABLE {
                break;
            }
            table = descriptor & low(if has_ds { 50 } else { 48 }) & !low(page);
            if has_ds {
                table |= (descriptor >> 8 & 0b11) << 50;
            } else if has_52 {
                table |= (descriptor >> 12 & 0xf) << 48;
            }
            (level, shift) = (level + 1, shift - stride);
        }
        level
    }
}

/// The lower `bits` bits.
const fn low(bits: u32) -> u64 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests;
