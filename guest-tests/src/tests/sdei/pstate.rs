//! PSTATE in the handler is that of an exception taken to EL1, and COMPLETE puts it back (C077, C078).

use super::*;
use crate::harness::needs_sdei;
use crate::rt::sdei::End;
use crate::rt::sysreg::{DSSBS, Pstate, SPAN};

/// What the handler found in the field under test.
fn seen_in_handler(field: &'static Pstate, before: u64) -> Result<u64, crate::harness::TestError> {
    static FIELD: spin::Mutex<Option<&'static Pstate>> = spin::Mutex::new(None);
    *FIELD.lock() = Some(field);
    sdei::set_hook(
        0,
        Some(|_| {
            if let Some(field) = *FIELD.lock() {
                note(0, (field.get)() as i64);
                // What the handler does to it must not survive COMPLETE.
                (field.set)(1 - (field.get)());
            }
            End::Complete(0)
        }),
    );
    (field.set)(before);
    let status = sdei::signal(cpu::affinity(0));
    let after = (field.get)();
    (field.set)(0);
    expect_eq!(status, SUCCESS);
    expect_eq!(after, before, "{} after COMPLETE", field.name);
    Ok(noted(0) as u64)
}

guest_test!(c077_pan_in_the_handler_is_set_unless_span_says_otherwise);
fn c077_pan_in_the_handler_is_set_unless_span_says_otherwise() -> TestResult {
    needs_sdei()?;
    if !(sysreg::PAN.exists)() {
        skip!("this CPU has no PAN");
    }
    get_ready()?;
    for before in [0, 1] {
        let span = sysreg::with_sctlr(SPAN, SPAN, || seen_in_handler(&sysreg::PAN, before))?;
        expect_eq!(span, before, "with SPAN, {before} before");
        let clear = sysreg::with_sctlr(SPAN, 0, || seen_in_handler(&sysreg::PAN, before))?;
        expect_eq!(clear, 1, "without SPAN, {before} before");
    }
    Ok(())
}

guest_test!(c078_ssbs_in_the_handler_is_what_dssbs_says);
fn c078_ssbs_in_the_handler_is_what_dssbs_says() -> TestResult {
    needs_sdei()?;
    if !(sysreg::SSBS.exists)() {
        skip!("this CPU has no SSBS");
    }
    get_ready()?;
    for (before, dssbs) in [(0, 0), (0, DSSBS), (1, 0), (1, DSSBS)] {
        let seen = sysreg::with_sctlr(DSSBS, dssbs, || seen_in_handler(&sysreg::SSBS, before))?;
        expect_eq!(seen, dssbs >> 44, "{before} before");
    }
    Ok(())
}

guest_test!(c078_uao_is_clear_in_the_handler);
fn c078_uao_is_clear_in_the_handler() -> TestResult {
    needs_sdei()?;
    if !(sysreg::UAO.exists)() {
        skip!("this CPU has no UAO");
    }
    get_ready()?;
    for before in [0, 1] {
        expect_eq!(seen_in_handler(&sysreg::UAO, before)?, 0, "{before} before");
    }
    Ok(())
}

guest_test!(c078_dit_is_in_the_handler_what_it_was);
fn c078_dit_is_in_the_handler_what_it_was() -> TestResult {
    needs_sdei()?;
    if !(sysreg::DIT.exists)() {
        skip!("this CPU has no DIT");
    }
    get_ready()?;
    for before in [0, 1] {
        expect_eq!(seen_in_handler(&sysreg::DIT, before)?, before);
    }
    Ok(())
}
