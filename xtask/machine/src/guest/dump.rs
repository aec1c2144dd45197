//! What a guest file says of the kernel that saves the guest's memory.

use std::path::PathBuf;

use hv_bundle::{DumpConfig, parse_size};
use serde::Deserialize;

/// What the key `dump` says.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "Words")]
pub struct Dump {
    memory: u64,
    /// The kernel; without, the guest's own.
    pub kernel: Option<PathBuf>,
    /// Its initial ramdisk; without, ours.
    pub initrd: Option<PathBuf>,
    append: Option<String>,
}

/// As it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    memory: String,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    append: Option<String>,
}

impl TryFrom<Words> for Dump {
    type Error = String;

    fn try_from(words: Words) -> Result<Self, String> {
        let memory = parse_size(&words.memory);
        Ok(Self {
            memory: memory.map_err(|_| format!("no such size: {}", words.memory))?,
            kernel: words.kernel,
            initrd: words.initrd,
            append: words.append,
        })
    }
}

/// The command line of a capture kernel with our initramfs: it says what the dump holds, writes to no disk, and is over.
const USUAL: &str = "console=ttyAMA0 maxcpus=1 panic=5 lab.do=notes";

impl Dump {
    /// As the bundle has it.
    pub fn config(&self) -> DumpConfig {
        DumpConfig {
            memory: self.memory,
            bootargs: self.append.clone().unwrap_or_else(|| USUAL.to_owned()),
        }
    }

    /// The files that it names, with what each is called.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let kernel = self.kernel.iter().map(|path| ("kernel of dump", path));
        kernel.chain(self.initrd.iter().map(|path| ("initrd of dump", path)))
    }

    /// The same, for who knows where they are.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.kernel.iter_mut().chain(&mut self.initrd)
    }
}
