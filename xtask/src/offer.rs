//! What the test guest is offered.

use std::path::PathBuf;

use anyhow::{Context, Result};
use hv_abi::sdei::{Definition, Priority, Scope};
use hv_abi::watchdog::{Act, Watchdog};
use hv_bundle::GuestConfig;

use debian::paths::write_if_new;
use machine::workshop::Workshop;

/// The watchdog over guests that try it.
pub const WATCHDOG: Watchdog = Watchdog {
    limit_ms: 20,
    one: Act::Nmi,
    all: Act::Nmi,
};

/// The configuration of a boot with a ramdisk.
pub const RAMDISK: &str = "ramdisk";

/// The bytes of that ramdisk.
const RAMDISK_SIZE: usize = 8 << 20;

/// The ramdisk of a boot with this configuration, if it has one.
pub fn ramdisk(workshop: &Workshop, config: &str) -> Result<Option<PathBuf>> {
    if config != RAMDISK {
        return Ok(None);
    }
    let path = workshop.output("guest-tests.ramdisk")?;
    let bytes: Vec<u8> = (0..RAMDISK_SIZE).map(|at| (at ^ at >> 8) as u8).collect();
    write_if_new(&path, &bytes)?;
    Ok(Some(path))
}

/// The configuration of a boot with a disk.
pub const DISK: &str = "disk";

/// The disks of a boot with this configuration: one of 1 MiB, as new.
pub fn disks(workshop: &Workshop, config: &str) -> Result<Vec<PathBuf>> {
    if config != DISK {
        return Ok(Vec::new());
    }
    let path = workshop.output("guest-tests.disk")?;
    std::fs::write(&path, vec![0x33; 1 << 20])
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(vec![path])
}

/// What it is offered in most boots. The extra events and the call that raises them are always there: they
/// are nothing to a guest that does not use them.
pub fn offered(words: &str) -> GuestConfig {
    use Priority::{Critical, Normal};
    let event = |number, scope, priority| Definition {
        number,
        scope,
        priority,
    };
    GuestConfig {
        bootargs: words.to_owned(),
        sdei: true,
        debug_calls: true,
        events: vec![
            event(0x100, Scope::Private, Normal),
            event(0x101, Scope::Private, Critical),
            event(0x102, Scope::Private, Critical),
            event(0x200, Scope::Shared, Normal),
            event(0x201, Scope::Shared, Normal),
            event(0x202, Scope::Shared, Critical),
        ],
        ..GuestConfig::default()
    }
}
