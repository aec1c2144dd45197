//! Options that do not go together.

use anyhow::{Result, bail, ensure};
use hv_abi::policy::Policy;

use super::{Cpus, Options, Reclaim, Switch};
use crate::board::Board;
use crate::build::Program;
use crate::el3::El3;
use crate::words;

impl Options {
    /// That nothing is asked for which could not come true: below no hypervisor if it is `bare`, else below `program`.
    /// The first such option is named, wherever it was said.
    pub fn check_together(&self, bare: bool, program: Program) -> Result<()> {
        ensure!(
            self.timeout != Some(0),
            "--timeout 0 leaves no time to boot; ask for 1 second or more, or leave it out"
        );
        ensure!(
            !self.guests.is_empty() || !matches!(self.cpus, Some(Cpus::List(_))),
            "cpus is a list, and an only guest has all CPUs of its machine; say how many, such as cpus = 2"
        );
        if let Some(names) = &self.firmware
            && let Err(error) = super::firmware(names)
        {
            bail!("{error}");
        }
        let flash = self.flash_bytes()?;
        ensure!(
            flash == 0 || self.machine != Some(Board::Raspi4b),
            "a raspi4b has RAM where the guest's flash would be; leave out flash"
        );
        self.check_nets()?;
        if bare {
            return self.check_bare();
        }
        words::check(
            self.hv_append.as_deref().unwrap_or_default(),
            self.cpus()?,
            program,
        )?;
        if self.sdei == Some(Switch::Off) {
            ensure!(
                self.events.is_empty(),
                "events of the guest file need SDEI; leave out events or --sdei off"
            );
            ensure!(
                self.reclaim != Some(Reclaim::Parked),
                "no CPU is parked in an SDEI event without SDEI; leave out --reclaim or --sdei off"
            );
        }
        Ok(())
    }

    /// That the machine can have the networks.
    pub(super) fn check_nets(&self) -> Result<()> {
        ensure!(
            self.nets.is_empty() || self.machine != Some(Board::Raspi4b),
            "a raspi4b has no network in QEMU; leave out nets"
        );
        Ok(())
    }

    /// That nothing is asked of a hypervisor that is not there.
    fn check_bare(&self) -> Result<()> {
        let asked = [
            (self.hv_append.is_some(), "--hv-append"),
            (self.firmware.is_some(), "--firmware"),
            (self.dtb_at.is_some(), "--dtb-at"),
            (self.operator.is_some(), "--operator"),
            (self.reclaim == Some(Reclaim::Parked), "--reclaim"),
            (self.sdei == Some(Switch::On), "--sdei on"),
            (!self.events.is_empty(), "events of the guest file"),
            (
                self.debug_calls == Some(true),
                "debug-calls of the guest file",
            ),
            (self.flash.is_some(), "flash of the guest file"),
            (self.pvpanic == Some(true), "pvpanic of the guest file"),
            (self.gwdt.is_some(), "sbsa-gwdt of the guest file"),
            (self.devices.is_some(), "devices of the guest file"),
            (
                self.trusted == Some(false),
                "trusted = false of the guest file",
            ),
            (self.crashkernel.is_some(), "crashkernel of the guest file"),
            (self.watchdog.is_some(), "watchdog of the guest file"),
            (self.nmi.is_some(), "nmi of the guest file"),
            (self.dump.is_some(), "dump of the guest file"),
            (
                self.policy() != Policy::USUAL,
                "start, on-off, on-reset and on-crash of the guest file",
            ),
        ];
        if let Some((_, what)) = asked.into_iter().find(|(is_asked, _)| *is_asked) {
            bail!("{what} is for the hypervisor, which --bare leaves out; leave out one of them");
        }
        ensure!(
            self.el3.unwrap_or_default() == El3::None,
            "--el3 runs below the hypervisor, which --bare leaves out; leave out one of them"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{Event, Operator};

    fn refused(options: &Options, bare: bool) -> String {
        let result = options.check_together(bare, Program::Hypervisor);
        result.unwrap_err().to_string()
    }

    #[test]
    fn what_bare_leaves_out_cannot_be_asked_for() {
        let event: Event =
            toml::from_str("number = 1\nscope = \"private\"\npriority = \"normal\"").unwrap();
        type Ask = (&'static str, fn(&mut Options));
        let asks: [Ask; 11] = [
            ("--firmware", |it| it.firmware = Some("tfa-2.12".into())),
            ("--dtb-at", |it| it.dtb_at = Some(0x4400_0000)),
            ("--operator", |it| it.operator = Some(Operator::Read)),
            ("--hv-append", |it| {
                it.hv_append = Some("crash=reset".into())
            }),
            ("--reclaim", |it| it.reclaim = Some(Reclaim::Parked)),
            ("--sdei on", |it| it.sdei = Some(Switch::On)),
            ("debug-calls", |it| it.debug_calls = Some(true)),
            ("devices", |it| it.devices = Some(Vec::new())),
            ("trusted = false", |it| it.trusted = Some(false)),
            ("crashkernel", |it| {
                it.crashkernel = Some("256M@0x60000000".to_owned().try_into().unwrap());
            }),
            ("--el3", |it| it.el3 = Some(El3::Tfa)),
        ];
        for (name, ask) in asks {
            let mut options = Options::default();
            ask(&mut options);
            let error = refused(&options, true);
            assert!(
                error.starts_with(name) && error.contains("leave out"),
                "{error}"
            );
            options.check_together(false, Program::Hypervisor).unwrap();
        }
        let options = Options {
            events: vec![event],
            ..Options::default()
        };
        assert!(refused(&options, true).starts_with("events"));
    }

    #[test]
    fn what_is_so_without_a_hypervisor_goes_with_bare() {
        let options = Options {
            sdei: Some(Switch::Off),
            reclaim: Some(Reclaim::Off),
            el3: Some(El3::None),
            debug_calls: Some(false),
            ..Options::default()
        };
        options.check_together(true, Program::Hypervisor).unwrap();
    }

    #[test]
    fn without_sdei_nothing_of_sdei_can_be_asked_for() {
        let mut options = Options {
            sdei: Some(Switch::Off),
            reclaim: Some(Reclaim::Parked),
            ..Options::default()
        };
        assert!(refused(&options, false).contains("leave out --reclaim or --sdei off"));
        options.sdei = None;
        options.check_together(false, Program::Hypervisor).unwrap();
    }

    #[test]
    fn what_a_board_does_not_take_is_known() {
        let options = Options {
            cpus: Some(4.into()),
            append: Some("quiet".into()),
            hv_append: Some("crash=reset".into()),
            ..Options::default()
        };
        assert_eq!(options.about_qemu(), ["cpus", "hv-append"]);
    }

    #[test]
    fn an_only_guest_does_not_choose_its_cpus() {
        let mut options = Options {
            cpus: Some(Cpus::List(vec![2, 3])),
            ..Options::default()
        };
        assert!(refused(&options, false).contains("say how many"));
        assert!(refused(&options, true).contains("say how many"));
        options.guests = vec![Options::default()];
        options.check_together(false, Program::Hypervisor).unwrap();
    }

    #[test]
    fn firmware_of_a_guest_file_is_known() {
        let options = Options {
            firmware: Some("tfa-2.21".into()),
            ..Options::default()
        };
        assert!(refused(&options, false).starts_with("`tfa-2.21` is no firmware"));
    }

    #[test]
    fn a_board_without_a_network_is_named() {
        let mut options = Options {
            nets: vec!["user".to_owned().try_into().unwrap()],
            ..Options::default()
        };
        options.check_together(false, Program::Hypervisor).unwrap();
        options.check_together(true, Program::Hypervisor).unwrap();
        options.machine = Some(Board::Raspi4b);
        assert!(refused(&options, false).contains("leave out nets"));
    }

    #[test]
    fn no_time_and_unknown_words_are_named() {
        let options = |timeout, words: &str| Options {
            timeout,
            hv_append: Some(words.into()),
            ..Options::default()
        };
        assert!(refused(&options(Some(0), ""), false).contains("--timeout 0"));
        assert!(refused(&options(None, "brake=panic"), false).contains("`brake=panic`"));
        assert!(refused(&options(None, "break=panic"), false).contains("--fault-injection"));
        options(Some(1), "stop=off")
            .check_together(false, Program::Hypervisor)
            .unwrap();
    }
}
