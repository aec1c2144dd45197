//! As much of XML 1.0 as says whether a document of ours is well-formed.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Element {
    pub name: String,
    pub attributes: BTreeMap<String, String>,
    pub children: Vec<Element>,
    pub text: String,
}

/// The root of a document.
pub fn parse(document: &str) -> Result<Element, String> {
    let is_char = |c: char| matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if let Some(c) = document.chars().find(|&c| !is_char(c)) {
        return Err(format!("{c:?} is no character of XML"));
    }
    let mut rest = document.trim();
    if let Some(declared) = rest.strip_prefix("<?xml ") {
        rest = declared
            .split_once("?>")
            .ok_or("a declaration without end")?
            .1
            .trim_start();
    }
    let (root, rest) = element(rest)?;
    match rest.trim() {
        "" => Ok(root),
        more => Err(format!("behind the root is {more}")),
    }
}

fn element(text: &str) -> Result<(Element, &str), String> {
    let rest = text.strip_prefix('<').ok_or("an element is expected")?;
    // Attributes of ours have no > that is not escaped.
    let (tag, mut rest) = rest.split_once('>').ok_or("a tag without end")?;
    let (tag, is_empty) = match tag.strip_suffix('/') {
        Some(tag) => (tag, true),
        None => (tag, false),
    };
    let (name, mut words) = tag.split_once(' ').unwrap_or((tag, ""));
    let is_name = |name: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !name.is_empty() && name.chars().all(is_part)
    };
    if !is_name(name) {
        return Err(format!("<{name}> is no name"));
    }
    let mut own = Element {
        name: name.to_owned(),
        ..Element::default()
    };
    while !words.trim().is_empty() {
        let (name, value) = words.trim_start().split_once("=\"").ok_or("no attribute")?;
        let (value, more) = value.split_once('"').ok_or("a value without end")?;
        if !is_name(name) || value.contains('<') {
            return Err(format!("{name}=\"{value}\" is no attribute"));
        }
        if own
            .attributes
            .insert(name.to_owned(), plain(value)?)
            .is_some()
        {
            return Err(format!("{name} is there twice"));
        }
        words = more;
    }
    if is_empty {
        return Ok((own, rest));
    }
    loop {
        let at = rest
            .find('<')
            .ok_or_else(|| format!("<{name}> is not closed"))?;
        own.text += &plain(&rest[..at])?;
        rest = &rest[at..];
        if let Some(end) = rest.strip_prefix("</") {
            let (closed, behind) = end.split_once('>').ok_or("a tag without end")?;
            return match closed == name {
                true => Ok((own, behind)),
                false => Err(format!("<{name}> is closed by </{closed}>")),
            };
        }
        let (child, behind) = element(rest)?;
        own.children.push(child);
        rest = behind;
    }
}

/// Text without its references.
fn plain(text: &str) -> Result<String, String> {
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(';').ok_or("& begins no reference")?;
        plain.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            _ => return Err(format!("&{name}; is no reference")),
        });
        plain += rest;
    }
    Ok(plain)
}
