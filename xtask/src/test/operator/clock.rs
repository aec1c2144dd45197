//! A guest's clock over pauses, some of which hold it: it stands still on all vCPUs alike and never goes back, and no timer is early.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::boot::{Boot, LIMIT, vcpu};
use machine::control::Client;
use machine::workshop::Workshop;

/// Two vCPUs that each set the virtual timer to a 64th of a second from now, again and again, and meanwhile read the physical counter
/// (x27), the virtual one (x26), and the physical one (x28). x21 counts the timer's interrupts. A virtual counter that goes back,
/// another interrupt and one that is early end the machine, with 1, 2 or 3 on the UART; a typed byte does, with P. GICv3.
const CLOCK: [u32; 77] = [
    0x1000_00c2, // adr x2, .+24
    0xd280_0060, // mov x0, #0x3
    0xf2b8_8000, // movk x0, #0xc400, lsl #16
    0xd280_0021, // mov x1, #0x1
    0xd280_0003, // mov x3, #0x0
    0xd400_0003, // smc #0x0
    0xd538_00b4, // mrs x20, mpidr_el1
    0x9240_0e94, // and x20, x20, #0xf
    0xd2a1_0001, // mov x1, #0x8000000
    0x5280_0240, // mov w0, #0x12
    0xb900_0020, // str w0, [x1]
    0xd2a1_0153, // mov x19, #0x80a0000
    0x8b14_4673, // add x19, x19, x20, lsl #17
    0xb940_1660, // ldr w0, [x19, #20]
    0x121e_7800, // and w0, w0, #0xfffffffd
    0xb900_1660, // str w0, [x19, #20]
    0x9140_4273, // add x19, x19, #0x10, lsl #12
    0x1280_0000, // mov w0, #0xffffffff
    0xb900_8260, // str w0, [x19, #128]
    0x52a1_0000, // mov w0, #0x8000000
    0xb901_0260, // str w0, [x19, #256]
    0xd280_00e0, // mov x0, #0x7
    0xd518_cca0, // msr icc_sre_el1, x0
    0xd503_3fdf, // isb
    0xd280_1fe0, // mov x0, #0xff
    0xd518_4600, // msr icc_pmr_el1, x0
    0xd280_0020, // mov x0, #0x1
    0xd518_cce0, // msr icc_igrpen1_el1, x0
    0xd2a1_2012, // mov x18, #0x9000000
    0xd53b_e019, // mrs x25, cntfrq_el0
    0xd346_ff39, // lsr x25, x25, #6
    0xd280_0015, // mov x21, #0x0
    0xd280_0016, // mov x22, #0x0
    0xd503_3fdf, // isb
    0xd53b_e04a, // mrs x10, cntvct_el0
    0x5280_0637, // mov w23, #0x31
    0xeb16_015f, // cmp x10, x22
    0x5400_0463, // b.lo .+140
    0xaa0a_03f6, // mov x22, x10
    0x8b19_02d8, // add x24, x22, x25
    0xd51b_e358, // msr cntv_cval_el0, x24
    0xd280_0020, // mov x0, #0x1
    0xd51b_e320, // msr cntv_ctl_el0, x0
    0xd503_3fdf, // isb
    0xd53b_e03b, // mrs x27, cntpct_el0
    0xd503_3fdf, // isb
    0xd53b_e05a, // mrs x26, cntvct_el0
    0xd503_3fdf, // isb
    0xd53b_e03c, // mrs x28, cntpct_el0
    0xeb16_035f, // cmp x26, x22
    0x5400_02c3, // b.lo .+88
    0xaa1a_03f6, // mov x22, x26
    0xd538_cc09, // mrs x9, icc_iar1_el1
    0xf10f_fd3f, // cmp x9, #0x3ff
    0x54ff_fea0, // b.eq .-44
    0x5280_0657, // mov w23, #0x32
    0xf100_6d3f, // cmp x9, #0x1b
    0x5400_01e1, // b.ne .+60
    0xd503_3fdf, // isb
    0xd53b_e04a, // mrs x10, cntvct_el0
    0x5280_0677, // mov w23, #0x33
    0xeb18_015f, // cmp x10, x24
    0x5400_0143, // b.lo .+40
    0xd51b_e33f, // msr cntv_ctl_el0, xzr
    0xd503_3fdf, // isb
    0xd518_cc29, // msr icc_eoir1_el1, x9
    0xd503_3fdf, // isb
    0x9100_06b5, // add x21, x21, #0x1
    0xb5ff_fbb4, // cbnz x20, .-140
    0xb940_1a42, // ldr w2, [x18, #24]
    0x3727_fb62, // tbnz w2, #4, .-148
    0x5280_0a17, // mov w23, #0x50
    0xb900_0257, // str w23, [x18]
    0x5280_0100, // mov w0, #0x8
    0x72b0_8000, // movk w0, #0x8400, lsl #16
    0xd400_0003, // smc #0x0
    0x1400_0000, // b .
];

/// So often the clock is held, and half as often it is not.
const PAUSES: u32 = 12;
/// Longer than a timer is set to.
const HELD: Duration = Duration::from_millis(40);

/// How far a virtual counter is behind the physical one: from, to, in ticks; and how many interrupts its timer has made.
#[derive(Clone, Copy, Debug)]
struct Seen {
    least: u64,
    most: u64,
    rounds: u64,
}

impl Seen {
    fn of(client: &mut Client, n: u64) -> Result<Option<Self>> {
        let told = client.execute("x-halligan-registers", json!({ "vcpu": n }))?;
        let registers = &vcpu(&told, n)["registers"];
        let value = |name: &str| registers[name].as_u64().context("it has no registers");
        let (before, shown, after) = (value("x27")?, value("x26")?, value("x28")?);
        // The three are of one time, unless it was interrupted in between.
        if before > after {
            return Ok(None);
        }
        Ok(Some(Self {
            least: before.saturating_sub(shown),
            most: after.saturating_sub(shown),
            rounds: value("x21")?,
        }))
    }

    /// Of two vCPUs, once each has gone on for two rounds; both agree, to a millisecond.
    fn of_both(client: &mut Client, known: [u64; 2], a_millisecond: u64) -> Result<[Self; 2]> {
        let until = Instant::now() + LIMIT;
        loop {
            let both = (Self::of(client, 0)?, Self::of(client, 1)?);
            if let (Some(first), Some(second)) = both
                && [first, second]
                    .iter()
                    .zip(known)
                    .all(|(seen, known)| seen.rounds >= known + 2)
                && [first, second]
                    .iter()
                    .all(|seen| seen.most - seen.least < a_millisecond)
            {
                ensure!(
                    first.least <= second.most && second.least <= first.most,
                    "the vCPUs' clocks differ: {first:?} {second:?}"
                );
                return Ok([first, second]);
            }
            ensure!(Instant::now() < until, "it does not go on: {both:?}");
        }
    }
}

/// Pauses it again and again.
pub fn hold(workshop: &Workshop) -> Result<String> {
    let mut boot = Boot::start(workshop, "clock", &CLOCK, &["--cpu", "max"])?;
    let mut client = boot.client()?;
    boot.status(|status| vcpu(status, 1)["state"] == "on")?;
    let told = client.execute("x-halligan-registers", json!({ "vcpu": 0 }))?;
    let part = vcpu(&told, 0)["registers"]["x25"].as_u64();
    let rate = 64 * part.filter(|part| *part > 0).context("it has no rate")?;
    let mut seen = Seen::of_both(&mut client, [0; 2], rate / 1000)?;
    let mut all = Duration::ZERO;
    for n in 0..PAUSES * 3 / 2 {
        let is_held = n % 3 != 2;
        let held = if is_held {
            client.execute("stop", json!({}))?;
            pass(&mut client)?
        } else {
            boot.ctl(&["freeze"])?;
            ensure!(status(&mut client)?["vm"]["is_clock_held"] == false);
            Duration::ZERO
        };
        all += held;
        client.execute("cont", json!({}))?;
        let before = seen;
        seen = Seen::of_both(&mut client, before.map(|seen| seen.rounds), rate / 1000)?;
        let ticks = (held.as_secs_f64() * rate as f64) as u64;
        for (before, now) in before.iter().zip(seen) {
            let is_good = match is_held {
                true => now.most >= before.least + ticks,
                false => now.least <= before.most && before.least <= now.most,
            };
            ensure!(
                is_good,
                "after a pause of {held:?} ({is_held}), {ticks} ticks of {rate} Hz: {before:?} {now:?}"
            );
        }
    }
    let run = boot.run.as_mut().context("it has ended")?;
    let mut keyboard = run.stdin.take().context("it has no input")?;
    std::io::Write::write_all(&mut keyboard, b"x")?;
    let (output, errors, code) = boot.end()?;
    drop(keyboard);
    ensure!(
        code == Some(0) && output == "P",
        "{code:?} {output:?}\n{errors}"
    );
    Ok(format!("{PAUSES} times, {} ms at least", all.as_millis()))
}

/// For longer than the guest's timers are set to the clock stands still; how long at least.
fn pass(client: &mut Client) -> Result<Duration> {
    // Whoever answers now has left the guest for good.
    let told = status(client)?;
    ensure!(
        told["vm"]["state"] == "paused" && told["vm"]["is_clock_held"] == true,
        "{told}"
    );
    let began = Instant::now();
    while began.elapsed() < HELD {
        status(client)?;
    }
    Ok(began.elapsed())
}

fn status(client: &mut Client) -> Result<Value> {
    client.execute("x-halligan-status", json!({}))
}
