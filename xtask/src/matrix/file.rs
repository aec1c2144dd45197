//! Files of matrices: TOML. docs/matrix.md has an example.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use serde::Deserialize;
use toml::Spanned;

use super::options::Options;
use super::plan::{Exclusion, Plan, Table, values};

/// What a row or axes must fail with.
const FAILS_WITH: &str = "fails-with";
/// The name of a row.
const NAME: &str = "name";
/// Why something is left out.
const WHY: &str = "why";

type Keys = BTreeMap<Spanned<String>, Spanned<toml::Value>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    common: Keys,
    #[serde(default)]
    axes: Vec<Spanned<Keys>>,
    #[serde(default)]
    rows: Vec<Spanned<Keys>>,
    #[serde(default)]
    exclude: Vec<Spanned<Keys>>,
}

/// The plan that `text` has; its paths are relative to `folder`. Of what it says wrong, the first with its line and how it is written.
pub fn parse(options: &Options, text: &str, folder: &Path) -> Result<Plan> {
    let document: Document = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let (line, why) = (line(text, at), error.message());
        anyhow!("line {line}: {why}; docs/matrix.md has an example")
    })?;
    let reader = Reader {
        options,
        text,
        folder,
    };
    let mut plan = Plan::default();
    for (name, mut values) in reader.take(&document.common, "common", &[])?.axes {
        let value = values.pop().filter(|_| values.is_empty());
        let value = value.ok_or_else(|| {
            anyhow!("[common] has several values of {name}; put the list into [[axes]]")
        })?;
        plan.common.insert(name, value);
    }
    for keys in &document.axes {
        let read = reader.take(keys.get_ref(), "[axes]", &[FAILS_WITH])?;
        plan.tables.push(Table {
            line: line(text, keys.span().start),
            is_row: false,
            name: None,
            axes: read.axes,
            fails_with: read.fails_with,
        });
    }
    for keys in &document.rows {
        let line = line(text, keys.span().start);
        let read = reader.take(keys.get_ref(), "[rows]", &[NAME, FAILS_WITH])?;
        if let Some((name, _)) = read.axes.iter().find(|(_, values)| values.len() > 1) {
            bail!("line {line}: a row has one value of {name}; put the list into [[axes]]");
        }
        plan.tables.push(Table {
            line,
            is_row: true,
            name: read.name,
            axes: read.axes,
            fails_with: read.fails_with,
        });
    }
    for keys in &document.exclude {
        let line = line(text, keys.span().start);
        let read = reader.take(keys.get_ref(), "[exclude]", &[WHY])?;
        if read.axes.is_empty() {
            bail!(
                "line {line}: an [[exclude]] without options leaves nothing; say which combinations it is about"
            );
        }
        plan.exclusions.push(Exclusion {
            axes: read.axes,
            why: read.why,
        });
    }
    Ok(plan)
}

/// What a table says.
#[derive(Default)]
struct Read {
    axes: super::plan::Axes,
    name: Option<String>,
    fails_with: Option<String>,
    why: Option<String>,
}

struct Reader<'a> {
    options: &'a Options,
    text: &'a str,
    folder: &'a Path,
}

impl Reader<'_> {
    /// The table `heading`, which has options and these `words` besides.
    fn take(&self, keys: &Keys, heading: &str, words: &[&str]) -> Result<Read> {
        let mut in_order: Vec<_> = keys.iter().collect();
        in_order.sort_by_key(|(key, _)| key.span().start);
        let mut read = Read::default();
        for (key, value) in in_order {
            let taken = self.key(key.get_ref(), value.get_ref(), words, &mut read);
            let line = line(self.text, key.span().start);
            taken.map_err(|why| anyhow!("line {line}, [{heading}]: {why}"))?;
        }
        Ok(read)
    }

    fn key(
        &self,
        key: &str,
        value: &toml::Value,
        words: &[&str],
        read: &mut Read,
    ) -> Result<(), String> {
        if words.contains(&key) {
            let text = value.as_str().filter(|text| !text.trim().is_empty());
            let text = text.ok_or_else(|| {
                format!("{key} is words in quotation marks, such as `{key} = \"{}\"`, and not `{value}`", example(key))
            })?;
            let place = match key {
                NAME => &mut read.name,
                FAILS_WITH => &mut read.fails_with,
                _ => &mut read.why,
            };
            *place = Some(text.to_owned());
            return Ok(());
        }
        if let Err(why) = self.options.check_name(key) {
            let own: Vec<String> = words.iter().map(|word| format!("{word}, ")).collect();
            return Err(why.replacen("there are ", &format!("there are {}", own.concat()), 1));
        }
        let texts = texts(value).ok_or_else(|| {
            format!("{key} is a value or a list of values, such as `cpus = [2, 4]` or `scenario = \"nmi\"`, and not `{value}`")
        })?;
        let values = values(self.options, key, &texts, self.folder)?;
        read.axes.push((key.to_owned(), values));
        Ok(())
    }
}

fn example(key: &str) -> &'static str {
    match key {
        NAME => "eight CPUs",
        FAILS_WITH => "CPU 2 was not stopped",
        _ => "no such board",
    }
}

/// One value, or each of a list.
fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(is_so) => Some(vec![is_so.to_string()]),
        toml::Value::Array(all) => {
            let each = all.iter().map(|one| texts(one).filter(|_| !one.is_array()));
            Some(each.collect::<Option<Vec<_>>>()?.concat())
        }
        _ => None,
    }
}

/// The line in which the byte `at` is.
fn line(text: &str, at: usize) -> usize {
    1 + text.get(..at).unwrap_or(text).matches('\n').count()
}

#[cfg(test)]
mod tests;
