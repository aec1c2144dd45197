//! What the test guest is offered.

use std::path::PathBuf;

use anyhow::{Context, Result};
use hv_abi::sdei::{Definition, Priority, Scope};
use hv_abi::watchdog::{Act, Watchdog};
use hv_bundle::GuestConfig;
use rustix::fs::{CWD, Mode, mkfifoat};

use debian::paths::write_if_new;
use machine::qemu::Machine;
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

/// The configuration of a boot with the other virtio devices that are mediated, one of each.
pub const VIRTIO: &str = "virtio";

/// How a boot with this configuration names the devices of its machine, if it has not all there are. Who lists devices is not
/// trusted with them.
pub fn devices(config: &str) -> Option<Vec<String>> {
    let count = match config {
        DISK => 1,
        VIRTIO => 4,
        _ => return None,
    };
    Some((0..count).map(|slot| format!("virtio:{slot}")).collect())
}

/// Gives a machine what a boot with this configuration has in its first transports: a disk of 1 MiB, as new; or a network card,
/// and what answers by itself.
pub fn attach(workshop: &Workshop, config: &str, machine: &mut Machine) -> Result<()> {
    match config {
        DISK => {
            let path = workshop.output("guest-tests.disk")?;
            std::fs::write(&path, vec![0x33; 1 << 20])
                .with_context(|| format!("cannot write {}", path.display()))?;
            machine.disks = vec![path];
            machine.slots = vec![0];
        }
        VIRTIO => {
            machine.nets = vec!["user".to_owned().try_into().map_err(anyhow::Error::msg)?];
            machine.slots = vec![0];
            // QEMU reads from a pipe that has one name what it has written to it.
            let pipe = workshop.output("guest-tests.pipe")?;
            if !pipe.exists() {
                mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR)
                    .with_context(|| format!("cannot make {}", pipe.display()))?;
            }
            let folder = workshop.output("guest-tests.shared")?;
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            let [pipe, folder] = [&pipe, &folder].map(|path| path.display());
            for (option, value) in [
                ("-device", "virtio-rng-device,bus=virtio-mmio-bus.1".into()),
                ("-chardev", format!("pipe,id=back,path={pipe}")),
                (
                    "-device",
                    "virtio-serial-device,bus=virtio-mmio-bus.2".into(),
                ),
                ("-device", "virtconsole,chardev=back".into()),
                (
                    "-fsdev",
                    format!("local,id=shared,security_model=none,readonly=on,path={folder}"),
                ),
                (
                    "-device",
                    "virtio-9p-device,fsdev=shared,mount_tag=shared,bus=virtio-mmio-bus.3"
                        .to_owned(),
                ),
            ] {
                machine.extra.extend([option.into(), value.into()]);
            }
        }
        _ => {}
    }
    Ok(())
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
