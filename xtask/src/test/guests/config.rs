//! What the test guest is offered in a boot.

use hv_abi::psci::Reclaim;
use hv_bundle::GuestConfig;

use super::Boot;
use super::hypervisors::is_probe;
use crate::offer::{self, offered};

/// What the test guest is offered.
pub fn config(boot: &Boot) -> GuestConfig {
    let mut config = offered(&boot.words);
    config.sdei = boot.sdei;
    match boot.config.as_str() {
        "reclaim" => config.reclaim = Reclaim::Parked,
        "watchdog" => config.watchdog = Some(offer::WATCHDOG),
        offer::RAMDISK => {}
        offer::DISK | offer::VIRTIO => config.devices = offer::devices(&boot.config),
        probe if is_probe(probe) => {}
        firmware => config.firmware = firmware.to_owned(),
    }
    config
}
