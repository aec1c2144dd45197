//! The stages of a board's first day: what each proves, and where to look when it fails.

use std::fmt;

use anyhow::Result;

/// A stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What it is called.
    pub name: &'static str,
    /// What is known once it has passed.
    pub proves: &'static str,
    /// What to check on the bench if it does not, the likeliest first.
    pub checks: &'static [&'static str],
}

/// The host has the port.
pub const PORT: Stage = Stage {
    name: "port",
    proves: "the adapter is there and does the rate",
    checks: &[
        "the adapter is plugged in, and `ls /dev/ttyUSB* /dev/ttyACM*` shows it",
        "your user may use it (group dialout), and no other program has it open",
    ],
};

/// The loader answers.
pub const LOADER: Stage = Stage {
    name: "loader",
    proves: "power, card, firmware, config.txt and the wires in both directions are good, and the entry is at EL2",
    checks: &[
        "the board has power (red LED) and reads its card (green LED flickers once it is switched on)",
        "the adapter's logic is of 3.3 V: 5 V on GPIO 15 destroys the board",
        "the adapter's RX is on pin 8 (GPIO 14), its TX on pin 10 (GPIO 15), ground on pin 6; swap RX and TX if in doubt",
        "the card has kernel8.img, start4.elf, fixup4.dat, bcm2711-rpi-4-b.dtb and config.txt of \
         `cargo xtask image rpi4 --chainloader`",
        "config.txt says arm_64bit=1, enable_uart=1 and init_uart_clock=48000000, and nothing after them overrides that",
        "if only garbage comes: the line is at 115200 baud, and ground is connected",
    ],
};

/// All blocks have arrived.
pub const TRANSFER: Stage = Stage {
    name: "transfer",
    proves: "the line carries everything in both directions",
    checks: &[
        "the wires are short, and ground is connected at both ends",
        "a lower --baud: not every adapter does 921600",
        "the power supply gives 3 A: a board that resets itself in the middle is starved",
    ],
};

/// It hashes in the board's memory to what was sent.
pub const MEMORY: Stage = Stage {
    name: "memory",
    proves: "the board's memory holds, byte for byte, what was sent",
    checks: &[
        "the power supply and the board's temperature",
        "config.txt sets no overclocking (arm_freq, over_voltage, sdram_freq)",
    ],
};

/// The hypervisor speaks.
pub const ENTRY: Stage = Stage {
    name: "entry",
    proves: "the hypervisor was entered at EL2 with a devicetree it can read, and drives the UART",
    checks: &[
        "config.txt does not say arm_peri_high=1 or kernel_old=1",
        "the devicetree's stdout-path is the UART that the adapter is on",
        "what it said last: `cargo xtask monitor --port ...`, and switch the board off and on",
    ],
};

/// The hypervisor has the machine.
pub const MACHINE: Stage = Stage {
    name: "machine",
    proves: "memory map, caches and MMU, GIC-400, timers, and every CPU out of the spin table",
    checks: &[
        "config.txt says enable_gic=1",
        "armstub= is not set, or is a bl31.bin of TF-A",
        "total_mem and gpu_mem in config.txt leave 512 MiB or more",
    ],
};

/// The guest tests have passed.
pub const TESTS: Stage = Stage {
    name: "guest tests",
    proves: "what a guest may rely on, it can rely on: calls, registers, interrupts, timers, isolation, SDEI",
    checks: &[
        "which tests fail: `cargo xtask test --machine raspi4b guest/` runs the same on QEMU's model",
        "those that are about time may fail on a board that throttles: look at its temperature",
    ],
};

/// Linux has been stopped and dumped.
pub const KDUMP: Stage = Stage {
    name: "kdump",
    proves: "a CPU of Linux that is wedged with interrupts masked is stopped by SDEI, and the dump is written",
    checks: &[
        "the card has a second partition for the dump: `cargo xtask image rpi4 --img` makes one",
        "`cargo xtask kdump --machine raspi4b` does the same on QEMU's model",
    ],
};

/// A stage that failed; what it was to prove and where to look are part of what it says.
#[derive(Debug)]
pub struct Failed {
    stage: Stage,
    why: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, why } = self;
        writeln!(f, "stage `{}`: {why}", stage.name)?;
        writeln!(f, "  it is to prove that {}", stage.proves)?;
        write!(f, "  check on the bench:")?;
        for check in stage.checks {
            write!(f, "\n    - {check}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failed {}

impl Stage {
    /// `result`, with where to look if it is an error.
    pub fn judge<T>(self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let why = format!("{error:#}");
            Failed { stage: self, why }.into()
        })
    }

    /// The line that says that it has passed.
    pub fn passed(self, remark: &str) -> String {
        format!("ok     {:12} {remark}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_to_be_proven_and_where_to_look() {
        let result: Result<()> = LOADER.judge(Err(anyhow::anyhow!("nothing came")));
        let text = result.unwrap_err().to_string();
        assert!(text.starts_with("stage `loader`: nothing came\n"), "{text}");
        assert!(
            text.contains("3.3 V") && text.contains("config.txt"),
            "{text}"
        );
    }

    #[test]
    fn every_stage_is_named_once_and_knows_where_to_look() {
        let all = [PORT, LOADER, TRANSFER, MEMORY, ENTRY, MACHINE, TESTS, KDUMP];
        for stage in all {
            assert_eq!(
                all.iter().filter(|other| other.name == stage.name).count(),
                1
            );
            assert!(!stage.checks.is_empty());
        }
    }
}
