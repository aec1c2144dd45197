//! As much of JSON Schema (2020-12) as docs/report.schema.json uses. A keyword that is not known fails.

use serde_json::Value;

/// docs/report.schema.json.
pub fn ours() -> Value {
    serde_json::from_str(include_str!("../../../../../docs/report.schema.json")).unwrap()
}

/// That `value` is as `schema`, a part of `whole`, says.
pub fn validate(whole: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(keywords) = schema.as_object() else {
        return Err(format!("{schema} is no schema"));
    };
    for (keyword, rule) in keywords {
        let is_kept = match keyword.as_str() {
            "$ref" => {
                let path = rule.as_str().and_then(|path| path.strip_prefix('#'));
                let part = path.and_then(|path| whole.pointer(path));
                let part = part.ok_or_else(|| format!("{rule} leads nowhere"))?;
                validate(whole, part, value)?;
                true
            }
            "type" => match rule.as_array() {
                Some(types) => types.iter().any(|one| is(one, value)),
                None => is(rule, value),
            },
            "const" => rule == value,
            "enum" => rule.as_array().is_some_and(|all| all.contains(value)),
            "minimum" => value.as_f64().is_none_or(|is| is >= rule.as_f64().unwrap()),
            "required" => {
                let names = rule.as_array().unwrap().iter();
                let absent = names.map(|name| name.as_str().unwrap()).find(|name| {
                    value
                        .as_object()
                        .is_some_and(|object| !object.contains_key(*name))
                });
                if let Some(name) = absent {
                    return Err(format!("{value} has no {name}"));
                }
                true
            }
            "properties" => {
                for (name, part) in rule.as_object().unwrap() {
                    if let Some(own) = value.get(name) {
                        validate(whole, part, own).map_err(|error| format!("{name}: {error}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                let is_known = |name: &String| known.is_some_and(|all| all.contains_key(name));
                let object = value.as_object();
                let more = object
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| !is_known(name));
                for (name, own) in more {
                    match rule {
                        Value::Bool(true) => {}
                        Value::Bool(false) => return Err(format!("{name} is not described")),
                        part => validate(whole, part, own)?,
                    }
                }
                true
            }
            "items" => {
                for own in value.as_array().into_iter().flatten() {
                    validate(whole, rule, own)?;
                }
                true
            }
            "oneOf" => {
                let all = rule.as_array().unwrap().iter();
                let errors: Vec<String> = all
                    .filter_map(|part| validate(whole, part, value).err())
                    .collect();
                if errors.len() + 1 != rule.as_array().unwrap().len() {
                    return Err(format!("{value} is not one of: {}", errors.join("; ")));
                }
                true
            }
            "$schema" | "$defs" | "title" | "description" => true,
            other => return Err(format!("{other} is not known to this check")),
        };
        if !is_kept {
            return Err(format!("{value} is not: {keyword} {rule}"));
        }
    }
    Ok(())
}

fn is(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("string") => value.is_string(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}
