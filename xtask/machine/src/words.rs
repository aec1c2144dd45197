//! The hypervisor's own command line, looked at before anything boots: the hypervisor ignores what it does not know.

use anyhow::{Result, bail, ensure};
use hv_abi::cmdline::{self, Setting, Wrong};

use crate::build::Program;

/// That `program` obeys every word of `line` on a machine with so many CPUs; the first that it does not is named.
pub fn check(line: &str, cpus: u32, program: Program) -> Result<()> {
    let injects = program == Program::FaultInjection;
    for bytes in cmdline::words(line.as_bytes()) {
        let word = bytes.escape_ascii();
        match cmdline::setting(bytes) {
            Ok(Setting::Fault(_)) => {
                ensure!(
                    injects,
                    "--hv-append: `{word}` injects faults, which only the test image does; add --fault-injection"
                );
                if let Some(Err(wrong)) = cmdline::fault(bytes, usize::try_from(cpus)?) {
                    bail!("--hv-append: `{word}` {wrong}");
                }
            }
            Ok(_) => {}
            Err(wrong @ Wrong::Unknown) if injects => {
                bail!("--hv-append: `{word}` {wrong}; of faults break=, wedge= and probe=");
            }
            Err(wrong) => bail!("--hv-append: `{word}` {wrong}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str, program: Program) -> String {
        let error = check(line, 4, program).expect_err(line);
        error.to_string()
    }

    #[test]
    fn what_the_image_obeys_is_taken() {
        check("", 4, Program::Hypervisor).unwrap();
        check("crash=reset  watchdog=stop:50", 4, Program::Hypervisor).unwrap();
        let faults = "break=panic@3 wedge=1:spin,2:lock stop=off";
        check(faults, 4, Program::FaultInjection).unwrap();
    }

    #[test]
    fn what_it_does_not_is_named_with_the_mend() {
        for (line, program, words) in [
            (
                "crash=reset brake=panic",
                Program::Hypervisor,
                "`brake=panic` is not known; known are crash=halt|reset",
            ),
            (
                "brake=panic",
                Program::FaultInjection,
                "of faults break=, wedge= and probe=",
            ),
            (
                "break=panic",
                Program::Hypervisor,
                "`break=panic` injects faults, which only the test image does; add --fault-injection",
            ),
            (
                "wedge=99:spin",
                Program::FaultInjection,
                "`wedge=99:spin` names pCPU 99; there are pCPUs 0 to 3",
            ),
            (
                "watchdog=sotp",
                Program::Hypervisor,
                "`watchdog=sotp` is malformed; write watchdog=report",
            ),
        ] {
            let error = refused(line, program);
            assert!(error.contains(words), "{error}");
        }
    }
}
