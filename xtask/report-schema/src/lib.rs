//! Holds JSON to docs/report.schema.json. For the tests of the crates that write such JSON; no program has it.
#![forbid(unsafe_code)]

use serde_json::Value;

/// Checks that `value` is what `part` of `$defs` in the schema describes, such as `document` or `line`.
///
/// # Errors
///
/// What is wrong, and where in `value`, one line for each; or that the schema itself is none.
pub fn check(part: &str, value: &Value) -> Result<(), String> {
    let text = include_str!("../../../docs/report.schema.json");
    let mut schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    // The schema as a whole is that of a document.
    schema["$ref"] = format!("#/$defs/{part}").into();
    let validator = jsonschema::validator_for(&schema).map_err(|error| error.to_string())?;
    let faults: Vec<String> = validator
        .iter_errors(value)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_found_and_named() {
        let end = json!({"event": "end", "passed": 1, "failed": 0, "skipped": 0});
        check("line", &end).unwrap();
        for wrong in [
            json!({"event": "other"}),
            json!({"event": "end", "passed": 1, "failed": 0}),
            json!({"event": "end", "passed": 1, "failed": 0, "skipped": "0"}),
            json!({"event": "end", "passed": 1, "failed": -1, "skipped": 0}),
            json!({"event": "end", "passed": 1, "failed": 0, "skipped": 0, "more": 1}),
            json!({"event": "result", "name": "a", "outcome": "ok", "seconds": 1, "remark": null, "details": [], "report": null}),
            json!(3),
        ] {
            assert!(check("line", &wrong).is_err(), "{wrong}");
        }
        let fault = check("cpus", &json!([0, -1])).unwrap_err();
        assert!(fault.starts_with("/1: -1 "), "{fault}");
        assert!(check("nothing", &end).is_err());
    }
}
