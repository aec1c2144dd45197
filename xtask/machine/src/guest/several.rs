//! Several guests in one file: what is each guest's, and what is the machine's.

use anyhow::{Result, bail, ensure};
use hv_bundle::MAX_VMS;

use super::{Cpus, Options};
use crate::board::Board;

/// MiB of memory of a guest that says nothing.
const USUAL_MIB: u64 = 512;
/// MiB of the machine's memory besides its guests': the hypervisor's, and for the copy of what they boot.
const OWN_MIB: u64 = 256;
/// So many transports of QEMU's `virt` are in one page, which has one owner if a guest is shown it.
const SLOTS_IN_PAGE: usize = 8;
/// How many it has.
const SLOTS: usize = 32;

impl Options {
    /// The devices of an only guest. The hypervisor trusts one that has no list of them, so one that is not to be trusted has all.
    pub(super) fn devices_of_only(&self) -> Option<Vec<String>> {
        let is_mediated = self.trusted == Some(false);
        let devices = self.devices.clone();
        devices.or_else(|| is_mediated.then(|| vec!["all".to_owned()]))
    }

    /// The guests, each with the name that it is called by: those of the tables, or the only one there is.
    pub fn each(&self) -> Result<Vec<Self>> {
        if self.guests.is_empty() {
            return Ok(vec![self.clone()]);
        }
        let own = self.said_of_a_guest();
        ensure!(
            own.is_empty(),
            "there are several guests, and {} is said of none of them; say it below the [[guest]] that it is for",
            own.join(", ")
        );
        let count = self.guests.len();
        ensure!(
            count <= usize::from(MAX_VMS),
            "there are {count} guests, and the hypervisor hosts {MAX_VMS} at most; leave some out"
        );
        let mut guests = Vec::new();
        let mut slots = 0;
        for (number, guest) in self.guests.iter().enumerate() {
            let mut guest = guest.clone();
            let name = guest.name.clone();
            let name = name.unwrap_or_else(|| format!("guest-{number}"));
            guest.name = Some(name.clone());
            if let Some(key) = guest.said_of_the_machine().first() {
                bail!(
                    "{key} is the machine's and not the guest {name}'s; say it above the first [[guest]]"
                );
            }
            ensure!(
                guest.guests.is_empty(),
                "the guest {name} has guests of its own; a guest has none"
            );
            guest.machine = self.machine;
            if guest.cpus.is_none() {
                guest.cpus = Some(1.into());
            }
            if guest.memory.is_none() {
                guest.memory = Some(format!("{USUAL_MIB}M"));
            }
            if !guest.disks.is_empty() || !guest.nets.is_empty() {
                slots = guest.take_slots(slots)?;
            }
            guests.push(guest);
        }
        Ok(guests)
    }

    /// Gives the disks and then the networks transports from number `first` on, of a trusted guest in pages of their own; the
    /// first that is left.
    fn take_slots(&mut self, first: usize) -> Result<usize> {
        let name = self.name.as_deref().unwrap_or_default();
        self.check_nets()?;
        ensure!(
            self.machine != Some(Board::Raspi4b),
            "the guest {name} has disks, and a raspi4b has a card: say devices = [\"sd\"], and --disk for the machine's"
        );
        let in_page = if self.trusted == Some(true) {
            SLOTS_IN_PAGE
        } else {
            1
        };
        let first = first.next_multiple_of(in_page);
        let end = first + self.disks.len() + self.nets.len();
        ensure!(
            end <= SLOTS,
            "QEMU's virt has {SLOTS} places for disks and nets, of which a trusted guest has whole pages of {SLOTS_IN_PAGE}, and the guest {name} finds none; give fewer"
        );
        let devices = self.devices.get_or_insert_default();
        devices.extend((first..end).map(|slot| format!("virtio:{slot}")));
        self.first_slot = Some(first as u32);
        Ok(end.next_multiple_of(in_page))
    }

    /// How many CPUs the machine has: what is said, or what the guests need.
    pub fn machine_cpus(&self, guests: &[Self]) -> Result<u32> {
        if self.guests.is_empty() || self.cpus.is_some() {
            return self.cpus();
        }
        let mut count = 0;
        let mut highest = match self.machine {
            // As many as it has, whoever needs them.
            Some(Board::Raspi4b) => Board::Raspi4b.most_cpus(),
            _ => 0,
        };
        for guest in guests {
            count += guest.cpus()?;
            if let Some(Cpus::List(list)) = &guest.cpus {
                highest = highest.max(list.iter().max().map_or(0, |last| last.saturating_add(1)));
            }
        }
        let machine = Self {
            cpus: Some(count.max(highest).into()),
            ..Self::default()
        };
        machine.cpus()
    }

    /// How much memory the machine has, in MiB: what is said, or what the guests need.
    pub fn machine_memory_mib(&self, guests: &[Self]) -> Result<u64> {
        if self.guests.is_empty() || self.memory.is_some() || self.machine == Some(Board::Raspi4b) {
            return self.memory_mib();
        }
        let mut sum = OWN_MIB;
        for guest in guests {
            sum += guest.own_memory_mib()?;
        }
        let machine = Self {
            memory: Some(format!("{sum}M")),
            ..Self::default()
        };
        machine.memory_mib()
    }
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    fn read(text: &str) -> Options {
        file::parse(text).expect(text)
    }

    fn refused(text: &str) -> String {
        read(text).each().expect_err(text).to_string()
    }

    #[test]
    fn a_file_without_tables_is_one_guest() {
        let options = read("kernel = \"Image\"\ncpus = 2\n");
        let guests = options.each().unwrap();
        assert_eq!(guests, std::slice::from_ref(&options));
        assert_eq!(options.machine_cpus(&guests).unwrap(), 2);
        assert_eq!(options.machine_memory_mib(&guests).unwrap(), 1024);
    }

    #[test]
    fn each_table_is_a_guest_and_the_machine_is_large_enough() {
        let options = read(
            "machine = \"virt-gicv2\"\n\
             [[guest]]\nname = \"main\"\ncpus = 4\nmemory = \"1G\"\ndisks = [\"a.img\", \"b.img\"]\ntrusted = true\n\
             [[guest]]\nkernel = \"other\"\ndisks = [\"c.img\", \"d.img\"]\n\
             [[guest]]\ncpus = [7, 5]\ndevices = [\"rtc\"]\n\
             [[guest]]\ndisks = [\"e.img\"]\nnets = [\"user\", \"user,restrict=on\"]\n\
             [[guest]]\ndisks = [\"f.img\"]\ntrusted = true\n",
        );
        let guests = options.each().unwrap();
        let names: Vec<_> = guests.iter().map(|guest| guest.name.as_deref()).collect();
        assert_eq!(names[..3], [Some("main"), Some("guest-1"), Some("guest-2")]);
        assert_eq!(options.machine_cpus(&guests).unwrap(), 9);
        assert_eq!(
            options.machine_memory_mib(&guests).unwrap(),
            256 + 1024 + 4 * 512
        );
        let configs: Vec<_> = guests
            .iter()
            .map(|guest| guest.config_of_many("").unwrap())
            .collect();
        assert_eq!((configs[0].vcpus, configs[0].memory), (4, 1 << 30));
        let words = |words: &[&str]| Some(words.iter().copied().map(str::to_owned).collect());
        assert_eq!(configs[0].devices, words(&["virtio:0", "virtio:1"]));
        // A page of transports that is shown to a guest has one owner.
        assert_eq!(configs[1].devices, words(&["virtio:8", "virtio:9"]));
        assert_eq!(
            configs[3].devices,
            words(&["virtio:10", "virtio:11", "virtio:12"])
        );
        assert_eq!(configs[4].devices, words(&["virtio:16"]));
        assert_eq!((configs[2].vcpus, &configs[2].pcpus), (2, &vec![7, 5]));
        assert_eq!(
            (&configs[2].devices, configs[2].trusted),
            (&words(&["rtc"]), false)
        );
        for config in configs {
            assert_eq!(config.check(), Ok(()));
        }
    }

    #[test]
    fn what_is_said_in_the_wrong_place_is_named() {
        let said = refused("kernel = \"Image\"\nsdei = \"off\"\n[[guest]]\n[[guest]]\n");
        assert_eq!(
            said,
            "there are several guests, and kernel, sdei is said of none of them; say it below the [[guest]] that it is for"
        );
        let said = refused(&"[[guest]]\n".repeat(300));
        assert_eq!(
            said,
            "there are 300 guests, and the hypervisor hosts 16 at most; leave some out"
        );
        let said = refused("watchdog = { limit = \"10s\" }\non-off = \"restart\"\n[[guest]]\n");
        assert!(
            said.contains("and watchdog, on-off is said of none"),
            "{said}"
        );
        let said = refused("[[guest]]\nname = \"a\"\nmachine = \"virt\"\n");
        assert_eq!(
            said,
            "machine is the machine's and not the guest a's; say it above the first [[guest]]"
        );
        let said = refused("[[guest]]\n[[guest.guest]]\n");
        assert!(said.starts_with("the guest guest-0 has guests"), "{said}");
        let said = refused("machine = \"raspi4b\"\n[[guest]]\ndisks = [\"a\"]\n");
        assert!(said.contains("a raspi4b has a card"), "{said}");
        let said = refused("machine = \"raspi4b\"\n[[guest]]\nnets = [\"user\"]\n");
        assert!(said.contains("a raspi4b has no network"), "{said}");
        let said = refused("nets = [\"user\"]\n[[guest]]\n");
        assert!(said.contains("and nets is said of none"), "{said}");
        let said = refused(&"[[guest]]\ntrusted = true\ndisks = [\"a\"]\n".repeat(5));
        assert!(said.contains("the guest guest-4 finds none"), "{said}");
    }
}
