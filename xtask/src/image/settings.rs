//! config.txt: what the board's firmware is told, and why.

/// A line and what it is for.
type Setting = (&'static str, &'static str);

const ALWAYS: [Setting; 8] = [
    (
        "arm_64bit=1",
        "Start the CPUs in AArch64: kernel8.img is an arm64 Image.",
    ),
    (
        "kernel=kernel8.img",
        "The Image; the firmware puts it at 0x200000 and starts it at EL2.",
    ),
    (
        "enable_uart=1",
        "Have a UART on pins 8 and 10 (GPIO 14 and 15), and keep the clocks behind it from changing.",
    ),
    (
        "init_uart_clock=48000000",
        "The clock of the PL011 in Hz: 115200 and 921600 baud can be made of it within 0.2 %.",
    ),
    (
        "gpio=14,15=a0",
        "Put the PL011, and not the mini-UART, on pins 8 and 10; the devicetree here says the same, so that no \
         dtoverlay=disable-bt is needed. Bluetooth has no UART then.",
    ),
    (
        "enable_gic=1",
        "Interrupts go through the GIC-400, in which the stub makes all of them Group 1, and not through the \
         BCM2836's older controller.",
    ),
    (
        "device_tree=bcm2711-rpi-4-b.dtb",
        "Linux's devicetree of the board. The firmware adds memory, command line and initrd to it.",
    ),
    (
        "uart_2ndstage=1",
        "The firmware tells on the same pins what it loads, which `cargo xtask bringup` shows if no loader answers.",
    ),
];

/// The same with what was chosen.
pub fn text(bundle: Option<(&str, u64)>, armstub: Option<&str>) -> String {
    let mut text = String::from(
        "# Of `cargo xtask image rpi4`. Every line says why it is there; docs/raspberry-pi-4.md has the rest.\n",
    );
    let mut add = |line: &str, why: &str| {
        text.push_str(&format!("\n# {why}\n{line}\n"));
    };
    for (line, why) in ALWAYS {
        add(line, why);
    }
    if let Some((name, pa)) = bundle {
        add(
            &format!("initramfs {name} {pa:#x}"),
            "The guests, at an address where nothing else lies; the hypervisor finds them by /chosen. \
             (No equals sign: the firmware wants it so.)",
        );
    }
    match armstub {
        Some(name) => add(
            &format!("armstub={name}"),
            "Trusted Firmware-A at EL3 instead of the firmware's own stub: CPUs start by PSCI.",
        ),
        None => add(
            "#armstub=",
            "Not set: the firmware's own stub hands over at EL2, with the other CPUs in a spin table.",
        ),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_explained() {
        for text in [
            text(None, None),
            text(Some(("guest.itb", 0x800_0000)), Some("bl31.bin")),
        ] {
            let lines: Vec<&str> = text
                .lines()
                .skip(1)
                .filter(|line| !line.is_empty())
                .collect();
            for pair in lines.chunks(2) {
                assert!(pair[0].starts_with("# ") && pair[0].len() > 30, "{pair:?}");
                assert!(!pair[1].starts_with("# ") && pair[1].len() < 60, "{pair:?}");
            }
        }
    }

    #[test]
    fn what_is_chosen_is_said() {
        let text = text(Some(("guest.itb", 0x800_0000)), Some("bl31.bin"));
        assert!(text.contains("\ninitramfs guest.itb 0x8000000\n"));
        assert!(text.contains("\narmstub=bl31.bin\n"));
    }
}
