//! `cargo xtask bt`: which functions each CPU of a dump was in, by what is in the dump alone.

use std::fmt::Write;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use introspection::linux::Kernel;
use introspection::memory::{Cached, Memory};
use introspection::translation::Regime;
use introspection::unwind;
use serde_json::{Value, json};

use crate::frames::{self, Sources};
use debian::paths;
use lab::dumped::Dumped;
use lab::registers::{Pstate, Registers};
use lab::usage;
use lab::vmcore::{ReadAt, Vmcore};

/// Show which functions each CPU of a dump of Linux was in.
///
/// The names come out of the dump itself, if it is of Linux 6.0 or later: neither vmlinux nor a package with debug information is
/// needed. A dump is what kdump, the hypervisor or `ctl dump` has saved: an ELF core, or what makedumpfile makes of one.
///
/// Each note that the dump has of a CPU is shown, in the dump's order, which is Linux's own; of a CPU that Linux did not stop there is none.
///
/// Exit codes: 0 all is shown, 1 the dump cannot be read, 2 wrong usage.
#[derive(Args)]
pub struct Bt {
    /// The dump.
    #[arg(value_name = "DUMP")]
    dump: PathBuf,
    /// The vmlinux of its kernel, for files and lines.
    #[arg(long, value_name = "FILE")]
    vmlinux: Option<PathBuf>,
    /// Show the registers of each CPU, too.
    #[arg(long)]
    registers: bool,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// Memory is read in pages.
const BLOCK: u64 = 4096;

impl Bt {
    /// Shows them.
    pub fn execute(self) -> Result<ExitCode> {
        self.check().map_err(usage::wrong)?;
        let shown = self.dump.display();
        let file = File::open(&self.dump).with_context(|| format!("cannot read {shown}"))?;
        let memory = Dumped::open(&self.dump)?;
        let vmcore = read(&file).with_context(|| format!("in the dump {shown}"))?;
        let mut memory = Cached::new(memory, BLOCK);
        let mut kernel = Kernel::of(&mut memory, vmcore.info.clone());
        let sources = match (&kernel, &self.vmlinux) {
            (Ok(kernel), Some(vmlinux)) => Some(Sources::of(vmlinux, kernel)?),
            _ => None,
        };
        let told = told(&mut memory, &vmcore, kernel.as_mut(), sources.as_ref())?;
        match self.json {
            true => println!("{told}"),
            false => print!("{}", text(&told, self.registers)),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn check(&self) -> Result<()> {
        paths::check_input(&self.dump, "DUMP")?;
        self.vmlinux
            .as_ref()
            .map_or(Ok(()), |path| paths::check_input(path, "--vmlinux"))
    }
}

/// What its notes say.
fn read(dump: &impl ReadAt) -> Result<Vmcore> {
    let vmcore = Vmcore::read(dump)?;
    ensure!(
        !vmcore.notes.is_empty(),
        "there is no note of any CPU: nobody has saved their registers"
    );
    Ok(vmcore)
}

/// All of it, as an object.
fn told(
    memory: &mut impl Memory,
    vmcore: &Vmcore,
    kernel: Result<&mut Kernel, &mut anyhow::Error>,
    sources: Option<&Sources>,
) -> Result<Value> {
    let regime = vmcore.info.own_half();
    let (mut kernel, unnamed) = match kernel {
        Ok(kernel) => (Some(kernel), None),
        Err(why) => (None, Some(format!("{why:#}"))),
    };
    let mut cpus = Vec::new();
    for (note, of) in vmcore.notes.iter().enumerate() {
        let registers = &of.registers;
        let (frames, end) = match &regime {
            Ok(regime) if registers.is_in_kernel() => {
                // A dump may lack what one stack needs; the others are shown.
                stack(memory, regime, kernel.as_deref_mut(), sources, registers)
                    .unwrap_or_else(|error| (Vec::new(), Some(format!("{error:#}"))))
            }
            _ => (Vec::new(), None),
        };
        cpus.push(json!({
            "note": note,
            "pid": of.pid,
            "pc": registers.pc,
            "pstate": registers.pstate,
            "registers": registers,
            "frames": frames,
            "end": end,
        }));
    }
    Ok(json!({
        "format": vmcore.format,
        "release": vmcore.release().ok(),
        "unnamed": unnamed,
        "cpus": cpus,
    }))
}

/// The frames of a CPU, and why there are no more.
fn stack(
    memory: &mut impl Memory,
    regime: &Regime,
    mut kernel: Option<&mut Kernel>,
    sources: Option<&Sources>,
    registers: &Registers,
) -> Result<(Vec<Value>, Option<String>)> {
    let at = unwind::Registers {
        pc: registers.pc,
        sp: registers.sp,
        frame: registers.x[29],
        link: registers.x[30],
    };
    let (frames, end) = match kernel.as_deref_mut() {
        Some(kernel) => kernel.unwind(memory, regime, &at)?,
        // Anything of the kernel may be code.
        None => unwind::unwind(memory, regime, &at, |_, address| {
            Ok(Regime::is_upper(address).then_some(address))
        })?,
    };
    let told = frames::told(memory, regime, kernel, sources, &frames)?;
    Ok((told, frames::end(&end)))
}

/// The same for people.
fn text(told: &Value, with_registers: bool) -> String {
    let format = told["format"].as_str().unwrap_or_default();
    let mut text = match told["release"].as_str() {
        Some(release) => format!("{format} dump of Linux {release}\n"),
        None => format!("{format} dump of what does not say that it is Linux\n"),
    };
    if let Some(why) = told["unnamed"].as_str() {
        let _ = writeln!(text, "addresses stay numbers: {why}");
    }
    for cpu in told["cpus"].as_array().into_iter().flatten() {
        let number = |name: &str| cpu[name].as_u64().unwrap_or_default();
        let _ = writeln!(
            text,
            "note {:<3} pid {:<6} pc {:#018x} {}",
            number("note"),
            number("pid"),
            number("pc"),
            Pstate(number("pstate"))
        );
        if with_registers {
            text += &registers(&cpu["registers"]);
        }
        text += &frames::text(cpu);
    }
    text
}

/// Four in a line.
fn registers(told: &Value) -> String {
    let names: Vec<String> = Registers::from_words(&[0; Registers::COUNT])
        .named()
        .map(|(name, _)| name)
        .collect();
    let mut text = String::new();
    for line in names.chunks(4) {
        for name in line {
            let value = told[name.as_str()].as_str().unwrap_or("?");
            let _ = write!(text, "  {name:>6} {value:<18}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use introspection::core_file::CoreFile;
    use introspection::vmcoreinfo::Vmcoreinfo;
    use lab::vmcore::Prstatus;

    /// No memory at all.
    struct Nothing;

    impl Memory for Nothing {
        fn read(&mut self, address: u64, _: &mut [u8]) -> Result<()> {
            anyhow::bail!("the dump has no memory at {address:#x}")
        }
    }

    fn dump(info: &str) -> Vmcore {
        let note = |pc: u64, pstate: u64| {
            let mut words = [0xffff_8000_8200_0010; Registers::COUNT];
            (words[32], words[33]) = (pc, pstate);
            Prstatus {
                pid: 7,
                registers: Registers::from_words(&words),
            }
        };
        Vmcore {
            format: "ELF",
            notes: vec![note(0xffff_8000_8000_1000, 0x3c5), note(0x40_0000, 0)],
            info: Vmcoreinfo::of_text(info.as_bytes(), &[]),
        }
    }

    #[test]
    fn what_is_no_linux_has_its_registers_shown() {
        let vmcore = dump("");
        let mut kernel = Kernel::of(&mut Nothing, vmcore.info.clone());
        let told = told(&mut Nothing, &vmcore, kernel.as_mut(), None).unwrap();
        let text = text(&told, true);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ELF dump of what does not say that it is Linux");
        assert_eq!(
            lines[1],
            "addresses stay numbers: the kernel's VMCOREINFO has no NUMBER(kimage_voffset)"
        );
        assert_eq!(
            lines[2],
            "note 0   pid 7      pc 0xffff800080001000 at EL1, DAIF masked"
        );
        assert!(
            lines[3].starts_with("      x0 0xffff800082000010"),
            "{text}"
        );
        assert!(lines[11].ends_with("pstate 0x3c5"), "{text}");
        assert_eq!(
            lines[12],
            "note 1   pid 7      pc 0x0000000000400000 at EL0, nothing masked"
        );
    }

    #[test]
    fn a_linux_without_names_still_has_frames() {
        let info = "OSRELEASE=7.3.4\nPAGESIZE=4096\nNUMBER(TCR_EL1_T1SZ)=0x10\nNUMBER(kimage_voffset)=0xffff800040000000\n\
                    SYMBOL(swapper_pg_dir)=ffff800081000000\n";
        let vmcore = dump(info);
        let mut none = anyhow::anyhow!("it has no names");
        let told = told(&mut Nothing, &vmcore, Err(&mut none), None).unwrap();
        assert_eq!(
            text(&told, false),
            "ELF dump of Linux 7.3.4\n\
             addresses stay numbers: it has no names\n\
             note 0   pid 7      pc 0xffff800080001000 at EL1, DAIF masked\n  \
             0xffff800080001000\n  \
             0xffff800082000010\n  \
             its stack pointer leads nowhere: cannot read the table of level 0 at 0x41000000 for 0xffff800082000010: \
             the dump has no memory at 0x41000800\n\
             note 1   pid 7      pc 0x0000000000400000 at EL0, nothing masked\n"
        );
    }

    #[test]
    fn a_dump_without_a_cpu_is_refused() {
        let core = CoreFile {
            ram: vec![(0x4000_0000, 4096)],
            ..CoreFile::default()
        };
        let head = core.head();
        let dump = std::env::temp_dir().join(format!("halligan-bt-{}", std::process::id()));
        std::fs::write(&dump, [&head[..], &[0; 4096]].concat()).unwrap();
        let bt = Bt {
            dump: dump.clone(),
            vmlinux: None,
            registers: false,
            json: false,
        };
        let refused = format!("{:#}", bt.execute().unwrap_err());
        std::fs::remove_file(&dump).unwrap();
        assert!(
            refused.ends_with(": there is no note of any CPU: nobody has saved their registers"),
            "{refused}"
        );
    }
}
