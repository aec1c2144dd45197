//! Guests that compute, or write without end, and are looked at and paused again and again, by several at once.

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;

use super::boot::{Boot, spin, vcpu};
use super::code::{COMPUTE, FILL, FLOOD};
use machine::control::Client;
use machine::workshop::Workshop;

/// How often a guest that computes is paused; `OPERATOR_PAUSES` says another number.
const PAUSES: u64 = 200;

pub fn compute(workshop: &Workshop) -> Result<String> {
    let pauses = match std::env::var("OPERATOR_PAUSES") {
        Ok(text) => text.parse().context("OPERATOR_PAUSES is no number")?,
        Err(_) => PAUSES,
    };
    pause(workshop, pauses)
}

pub fn pause(workshop: &Workshop, pauses: u64) -> Result<String> {
    let limit = (120 + pauses).to_string();
    let arguments = ["--cpu", "max", "--timeout", &limit];
    let mut boot = Boot::start(workshop, "compute", &COMPUTE, &arguments)?;
    let mut client = boot.client()?;
    let registers = |client: &mut Client| {
        let told = client.execute("x-halligan-registers", json!({ "vcpu": 0 }))?;
        anyhow::Ok(vcpu(&told, 0).clone())
    };
    let mut rounds = 0;
    for n in 0..pauses {
        // Every other pause holds its clock.
        let order = ["stop", "x-halligan-freeze"][(n % 2) as usize];
        client.execute(order, json!({}))?;
        // It stands still, and has gone on since the last time.
        if n % 20 == 0 {
            let (first, second) = (registers(&mut client)?, registers(&mut client)?);
            ensure!(
                first == second,
                "it runs while it is paused: {first} {second}"
            );
            let now = first["registers"]["x21"].as_u64().unwrap_or_default();
            ensure!(n == 0 || now > rounds, "it has not gone on: {now} rounds");
            rounds = now;
        }
        client.execute("cont", json!({}))?;
    }
    has_computed(&mut boot)?;
    Ok(format!("{pauses} pauses, {rounds} rounds or more"))
}

/// Has a guest that computes come to its end; it has found nothing wrong.
fn has_computed(boot: &mut Boot) -> Result<()> {
    let run = boot.run.as_mut().context("it has ended")?;
    let mut keyboard = run.stdin.take().context("it has no input")?;
    std::io::Write::write_all(&mut keyboard, b"x")?;
    let (output, errors, code) = boot.end()?;
    drop(keyboard);
    ensure!(
        code == Some(0) && output == "P",
        "{code:?} {output:?}\n{errors}"
    );
    Ok(())
}

/// A guest that computes is looked at so many times, and goes on unharmed.
pub fn look_often(workshop: &Workshop, times: u64) -> Result<String> {
    let limit = (300 + 2 * times).to_string();
    let arguments = ["--cpu", "max", "--timeout", &limit];
    let mut boot = Boot::start(workshop, "compute", &COMPUTE, &arguments)?;
    let mut client = boot.client()?;
    let (mut rounds, mut changes) = (0, 0);
    for n in 0..times {
        let told = client.execute("x-halligan-registers", json!({ "vcpu": 0 }))?;
        let now = vcpu(&told, 0)["registers"]["x21"].as_u64();
        let now = now.with_context(|| format!("round {n}: {told}"))?;
        ensure!(now >= rounds, "it goes back from {rounds} to {now} rounds");
        changes += u64::from(now > rounds);
        rounds = now;
        boot.ctl(&["bt", "0"])?;
    }
    ensure!(changes > times / 2, "it stands still: {changes} changes");
    has_computed(&mut boot)?;
    Ok(format!("{times} times, {rounds} rounds or more"))
}

/// So often each asks.
const QUESTIONS: u32 = 50;

/// A guest that writes without end is looked at, paused and ended.
pub fn answer_through_a_flood(workshop: &Workshop) -> Result<String> {
    let mut boot = Boot::start(workshop, "flood", &FLOOD, &[])?;
    let run = boot.run.as_mut().context("it has ended")?;
    let mut output = run.stdout.take().context("it has no output")?;
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        let (mut count, mut others) = (0u64, 0u64);
        while let Ok(read @ 1..) = std::io::Read::read(&mut output, &mut buffer) {
            count += read as u64;
            others += buffer[..read].iter().filter(|&&byte| byte != b'x').count() as u64;
        }
        (count, others)
    });
    let mut client = boot.client()?;
    for _ in 0..QUESTIONS {
        let status = client.execute("x-halligan-status", json!({}))?;
        ensure!(vcpu(&status, 0)["state"] == "on", "{status}");
    }
    client.execute("stop", json!({}))?;
    client.execute("cont", json!({}))?;
    boot.ctl(&["off"])?;
    let (_, errors, code) = boot.end()?;
    let (count, others) = reader
        .join()
        .map_err(|_| anyhow!("who reads has panicked"))?;
    ensure!(code == Some(0), "{code:?}\n{errors}");
    ensure!(
        others == 0 && count > 1000,
        "{others} of {count} bytes are not the guest's"
    );
    Ok(format!("{QUESTIONS} answers among {count} bytes"))
}

/// Two who ask at once are answered, each what it has asked.
pub fn serve_two(workshop: &Workshop) -> Result<String> {
    let mut boot = Boot::start(workshop, "fill", &FILL, &[])?;
    let mut client = boot.client()?;
    let code = spin(&mut client)? - 4 * (FILL.len() as u64 - 1);
    let filled = code + 0x1000;
    let clients = [0u64, 1].map(|own| {
        let socket = boot.socket.clone();
        std::thread::spawn(move || -> Result<()> {
            let mut client = Client::connect(&socket)?;
            for n in 0..u64::from(QUESTIONS) {
                let at = filled + 8 * (2 * n + own);
                let read = client.read(at, 8)?;
                ensure!(read == at.to_le_bytes(), "at {at:#x} is {read:x?}");
                let told = client.execute("x-halligan-registers", json!({ "vcpu": own }))?;
                let state = &vcpu(&told, own)["state"];
                let expected = if own == 0 { "on" } else { "off" };
                ensure!(state == expected, "client {own}: {told}");
            }
            Ok(())
        })
    });
    for client in clients {
        client
            .join()
            .map_err(|_| anyhow!("a client has panicked"))??;
    }
    boot.ctl(&["off"])?;
    let (_, errors, code) = boot.end()?;
    ensure!(code == Some(0), "{code:?}\n{errors}");
    Ok(format!("{QUESTIONS} questions of each"))
}
