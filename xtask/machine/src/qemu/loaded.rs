//! What lies in a machine's RAM before its first instruction, as QEMU's monitor shows it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::{CONSOLE, Machine};

impl Machine {
    /// The kernel as it lies in RAM. `scratch` is a file that may be written and is removed.
    pub fn loaded_kernel(&self, scratch: &Path) -> Result<Vec<u8>> {
        self.write_files()?;
        let (pa, _) = self.places();
        let size = fs::metadata(&self.kernel)
            .with_context(|| format!("cannot read {}", self.kernel.display()))?
            .len();
        let mut arguments = self.arguments();
        // The monitor has the place of the console, which nobody writes to.
        let serial = arguments.iter_mut().find(|argument| *argument == CONSOLE);
        *serial.context("the machine has no console")? = "null".into();
        let mut qemu = supervisor::command(&self.qemu)
            .args(arguments)
            .args(["-S", "-monitor", CONSOLE])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| self.cannot_start())?;
        let monitor = qemu.stdin.take().context("QEMU has no input")?;
        let order = format!("pmemsave {pa:#x} {size} \"{}\"\nquit\n", scratch.display());
        let told = { monitor }.write_all(order.as_bytes());
        let ended = qemu.wait_with_output()?;
        told.and_then(|()| fs::read(scratch))
            .and_then(|bytes| fs::remove_file(scratch).map(|()| bytes))
            .with_context(|| String::from_utf8_lossy(&ended.stderr).trim().to_owned())
            .and_then(|bytes| {
                ensure!(
                    bytes.len() as u64 == size,
                    "QEMU shows too little of the RAM"
                );
                Ok(bytes)
            })
    }
}
