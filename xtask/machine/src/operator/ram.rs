//! What a guest is called and where it has its RAM, as the hypervisor's log says it.

/// A part of RAM: its first address, and its length in bytes.
pub type Range = (u64, u64);

/// What the line `vm0 (name): 4 vCPUs, 1966 MiB of memory: 946 MiB at 0x200000 and 1020 MiB at 0x40000000, SDEI on` says.
pub fn guest(text: &str) -> Option<(u8, &str, Vec<Range>)> {
    let (vm, rest) = text.strip_prefix("vm")?.split_once(" (")?;
    let (name, rest) = rest.split_once("): ")?;
    let (_, rest) = rest.split_once(" vCPUs, ")?;
    let (memory, _) = rest.rsplit_once(", SDEI ")?;
    let (sum, places) = memory.split_once(" of memory")?;
    let ram = match places.strip_prefix(": ") {
        Some(pieces) => pieces.split(" and ").map(piece).collect::<Option<_>>()?,
        None => vec![piece(&format!("{sum}{places}"))?],
    };
    Some((vm.parse().ok()?, name, ram))
}

/// Of `946 MiB at 0x200000`.
fn piece(text: &str) -> Option<Range> {
    let (size, start) = text.split_once(" at 0x")?;
    let (number, unit) = size.split_once(' ')?;
    let unit = match unit {
        "MiB" => 1 << 20,
        "KiB" => 1 << 10,
        _ => return None,
    };
    let length = number.parse::<u64>().ok()?.checked_mul(unit)?;
    Some((u64::from_str_radix(start, 16).ok()?, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_and_several() {
        let one = "vm0 (guest): 4 vCPUs, 508804 KiB of memory at 0x40000000, SDEI on";
        let ram = vec![(0x4000_0000, 508_804 << 10)];
        assert_eq!(guest(one), Some((0, "guest", ram)));
        let two = "vm12 (a): 2 vCPUs, 1966 MiB of memory: 946 MiB at 0x200000 and 1020 MiB at 0x40000000, SDEI off";
        let expected = vec![(0x20_0000, 946 << 20), (0x4000_0000, 1020 << 20)];
        assert_eq!(guest(two), Some((12, "a", expected)));
        for other in [
            "@vm-start vm=0 vcpus=4",
            "vm0 (guest): 4 vCPUs, no memory at 0x0, SDEI on",
            "vm0 (guest): 4 vCPUs, 1 MiB of memory at 40000000, SDEI on",
        ] {
            assert_eq!(guest(other), None, "{other}");
        }
    }
}
