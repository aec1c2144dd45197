//! `ctl console`: the guest's console, beside the terminal of the run.

use std::io::{self, Read, Write};

use anyhow::{Context, Result};
use machine::control::Address;

use crate::terminal::{Escape, Terminal};

/// Shows what the guest writes and types to it, until the machine ends or the user leaves.
pub fn show(address: &Address) -> Result<()> {
    let (mut said, mut keyboard) = address.connect()?.console()?;
    let terminal = Terminal::take()?;
    let is_raw = terminal.is_raw();
    if is_raw {
        eprint!("xtask: the guest's console; Ctrl-A X leaves\r\n");
    }
    let hangs_up = keyboard.try_clone()?;
    std::thread::spawn(move || {
        let mut escape = Escape::default();
        let mut bytes = [0; 256];
        while let Ok(count @ 1..) = io::stdin().lock().read(&mut bytes) {
            let (bytes, leaves) = match is_raw {
                true => escape.filter(&bytes[..count]),
                false => (bytes[..count].to_vec(), false),
            };
            if keyboard.write_all(&bytes).is_err() {
                return;
            }
            if leaves {
                // What is shown ends with it.
                let _ = hangs_up.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    });
    let mut out = io::stdout().lock();
    let mut bytes = [0; 4096];
    // However it ends, it has ended.
    while let Ok(count @ 1..) = said.read(&mut bytes) {
        out.write_all(&bytes[..count])
            .and_then(|()| out.flush())
            .context("cannot write to standard output")?;
    }
    Ok(())
}
