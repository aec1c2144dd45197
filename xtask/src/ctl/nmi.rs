//! `ctl nmi`: what each rung comes to, as it comes.

use anyhow::Result;
use serde_json::{Value, json};

use super::shown;
use machine::control::Client;

/// Has `vcpu`, or one that is chosen, take an NMI. Unless `at_once`, waits until a rung has worked or all have come to nothing, or the
/// guest or the machine ends.
///
/// # Errors
///
/// If the NMI cannot be sent.
pub fn nmi(client: &mut Client, vcpu: Option<u8>, at_once: bool, is_json: bool) -> Result<()> {
    let mut told = client.execute("x-halligan-nmi", json!({ "vcpu": vcpu }))?;
    if !is_json {
        println!("{}", shown::nmi(&told));
    }
    let mut known = told["known"].as_u64().unwrap_or_default();
    let mut all = Vec::new();
    let mut is_over = at_once;
    while !is_over {
        // The machine's run ends with the machine, and the connection with the run.
        let said = client.execute("x-halligan-rungs", json!({ "known": known }));
        let said = said.unwrap_or_else(|_| json!({ "over": true }));
        let mut rungs: Vec<Value> = said["rungs"].as_array().cloned().unwrap_or_default();
        known += rungs.len() as u64;
        // Another guest may have one at the same time.
        rungs.retain(|rung| rung["own"] == true);
        for text in rungs.iter().filter_map(|rung| rung["text"].as_str()) {
            if !is_json {
                println!("{text}");
            }
        }
        let is_last = rungs.iter().any(|rung| rung["last"] == true);
        all.extend(rungs);
        is_over = is_last || said["over"] == true;
        if is_over && !is_last && !is_json {
            println!("the machine has ended");
        }
        if let Some(recorded) = said.get("recorded") {
            told["recorded"] = recorded.clone();
        }
    }
    if is_json {
        told["rungs"] = all.into();
        println!("{told}");
    }
    Ok(())
}
