//! What a run is given as `cargo xtask run` takes it: by options of the same names, or in a guest file.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use hv_abi::policy::Policy;

use machine::board::Board;
use machine::build::Program;
use machine::guest::Options;

/// Options that `run` has, too.
#[derive(Args, Clone, Debug, Default)]
pub struct Asked {
    /// Read options from this guest file (docs/guest-file.md); those of the command line win.
    ///
    /// What a job decides itself, or is about several guests, is no part of it: the first such key is named.
    #[arg(long, value_name = "FILE.toml", conflicts_with = "beside")]
    guest: Option<PathBuf>,
    /// Added to the kernel's command line, and to that of the crash kernel.
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    append: Option<String>,
    /// Size of the guest's RAM, in MiB or with M or G [default: 512M; with --stock 1G].
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// A ramdisk more, unpacked before ours, whose files win: modules and programs for both kernels lie in its lib, bin and sbin.
    #[arg(long, value_name = "PATH")]
    initrd: Option<PathBuf>,
    /// Raw disk image, a virtio-blk device more, behind that for the dump; repeatable.
    #[arg(long = "disk", value_name = "FILE", conflicts_with = "beside")]
    disks: Vec<PathBuf>,
    /// The hypervisor's own command line.
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    hv_append: Option<String>,
    /// Passed to QEMU as it is; repeatable.
    #[arg(long = "qemu-arg", value_name = "ARG", allow_hyphen_values = true)]
    qemu_args: Vec<String>,
    /// Wait for a debugger on this TCP port of 127.0.0.1 before the first instruction.
    ///
    /// Whoever may connect to it, which is every user of this host, may do with the guest what a debugger can.
    #[arg(long, value_name = "PORT", require_equals = true, num_args = 0..=1, default_missing_value = "1234",
          value_parser = clap::value_parser!(u16).range(1..))]
    gdb: Option<u16>,
}

/// What a job's machine and guest have besides what the job needs.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// As `run` has them.
    pub options: Options,
    /// The port that a debugger is waited for on.
    pub gdb: Option<u16>,
}

impl Asked {
    /// The options, those of the command line over those of the file.
    pub fn options(&self) -> Result<Options> {
        let own = Options {
            append: self.append.clone(),
            memory: self.memory.clone(),
            initrd: self.initrd.clone(),
            disks: self.disks.clone(),
            hv_append: self.hv_append.clone(),
            qemu_args: self.qemu_args.clone(),
            ..Options::default()
        };
        match &self.guest {
            Some(path) => {
                let file = Options::read(path)?;
                check_file(path, &file)?;
                Ok(own.over(file))
            }
            None => Ok(own),
        }
    }

    /// Whether a debugger is waited for.
    pub const fn waits(&self) -> bool {
        self.gdb.is_some()
    }

    /// The same as a job has them that runs on `board` by `program`.
    pub fn extras(&self, options: Options, board: Board, program: Program) -> Result<Extras> {
        let options = Options {
            machine: Some(board),
            ..options
        };
        options.check_together(false, program)?;
        options.check_files()?;
        if options.memory.is_some() {
            options.memory_mib()?;
        }
        Ok(Extras {
            options,
            gdb: self.gdb,
        })
    }
}

/// That the guest file at `path` says nothing that is not for a job.
fn check_file(path: &Path, file: &Options) -> Result<()> {
    let others = [
        (!file.guests.is_empty(), "[[guest]]"),
        (file.dump.is_some(), "dump"),
        (file.crashkernel.is_some(), "crashkernel"),
        (file.watchdog.is_some(), "watchdog"),
        (file.operator.is_some(), "operator"),
        (file.log.is_some(), "log"),
        (
            file.policy() != Policy::USUAL,
            "one of start, on-off, on-reset and on-crash",
        ),
    ];
    let found = others.into_iter().find(|(is_said, _)| *is_said);
    let name = found.map_or("", |(_, name)| name);
    ensure!(
        found.is_none(),
        "the guest file {} has {name}, which a kdump job decides itself; leave it out, or take cargo xtask run",
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(file: &str) -> Result<Options> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("guest.toml");
        std::fs::write(&path, file)?;
        let asked = Asked {
            guest: Some(path),
            append: Some("quiet".to_owned()),
            qemu_args: vec!["-snapshot".to_owned()],
            ..Asked::default()
        };
        asked.options()
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_lists_are_joined() {
        let file = "append = \"loud\"\nmemory = \"768M\"\ncpus = 3\nqemu-args = [\"-S\"]\npvpanic = true\n";
        let options = asked(file).unwrap();
        assert_eq!(options.append.as_deref(), Some("quiet"));
        assert_eq!(options.memory.as_deref(), Some("768M"));
        assert_eq!(options.cpus().unwrap(), 3);
        assert_eq!(options.qemu_args, ["-S", "-snapshot"]);
        assert_eq!(options.pvpanic, Some(true));
    }

    #[test]
    fn what_a_job_decides_itself_is_named() {
        for (file, name) in [
            ("[[guest]]\nname = \"one\"\n", "[[guest]]"),
            ("crashkernel = \"256M@0x60000000\"\n", "crashkernel"),
            ("operator = \"off\"\n", "operator"),
            ("log = \"a.log\"\n", "log"),
            ("on-crash = \"restart\"\n", "on-crash"),
        ] {
            let error = asked(file).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains("leave it out"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_cannot_be_is_said_before_anything_is_built() {
        let refused = |asked: &Asked, board| {
            let options = asked.options().unwrap();
            let extras = asked.extras(options, board, Program::Hypervisor);
            extras.unwrap_err().to_string()
        };
        let asked = Asked {
            hv_append: Some("brake=panic".to_owned()),
            ..Asked::default()
        };
        assert!(refused(&asked, Board::Virt).contains("`brake=panic`"));
        let asked = Asked {
            initrd: Some("/no/such/initrd".into()),
            ..Asked::default()
        };
        assert_eq!(
            refused(&asked, Board::Virt),
            "there is no initrd /no/such/initrd; check the path"
        );
        let asked = Asked {
            memory: Some("64M".to_owned()),
            ..Asked::default()
        };
        assert!(refused(&asked, Board::Raspi4b).contains("leave out --memory"));
    }
}
