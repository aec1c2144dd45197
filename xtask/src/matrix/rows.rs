//! Rows out of a plan: the rule, without effects.

use std::collections::HashMap;

use anyhow::{Result, bail, ensure};

use super::options::{DEFAULT, Options, SCENARIO, Settings, Value};
use super::plan::{Axes, Exclusion, Plan, Table};

/// A plan may have so many combinations at most.
const MOST: usize = 10_000;

/// One job of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name, which no other row has.
    pub name: String,
    /// What `cargo xtask kdump` is given.
    pub words: Vec<String>,
    /// What each fault has to say, if it must fail.
    pub fails_with: Option<String>,
}

/// A combination that does not become a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The name that it would have.
    pub name: String,
    /// The reason.
    pub why: String,
}

/// What a plan comes to.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// In the order of the plan.
    pub rows: Vec<Row>,
    /// The same.
    pub left_out: Vec<LeftOut>,
}

/// Makes the rows of `plan`, with the options of `over` instead of its own. `look` says of a command why it cannot be, if it cannot.
///
/// # Errors
///
/// If a row that is written out cannot be, if two rows that are not the same have one name or one command, and if no row is left.
pub fn rows(
    options: &Options,
    plan: &Plan,
    over: &Axes,
    look: impl Fn(&[String]) -> Result<(), String>,
) -> Result<Rows> {
    let mut made = Rows::default();
    // Which row has a command, and whether that is written out.
    let mut known: HashMap<Vec<String>, (usize, bool)> = HashMap::new();
    for table in &plan.tables {
        let has = |name: &str| table.axes.iter().any(|(own, _)| own == name);
        let mut changed = over.iter().map(|(name, _)| name.as_str());
        let changed = changed.find(|name| has(name));
        for own in product(&table.axes, over)? {
            let mut all = plan.common.clone();
            all.extend(own.clone());
            let words = options.words(in_order(&all));
            let name = match &table.name {
                Some(name) => named(options, name, &own, table),
                None => name(options, &own),
            };
            let why = match left_out(plan, table, changed, &all) {
                Some(why) => Err(why),
                None => look(&words),
            };
            if let Err(why) = why {
                ensure!(
                    !table.is_row || changed.is_some(),
                    "the row {name} of line {} cannot be: {why}",
                    table.line
                );
                made.left_out.push(LeftOut { name, why });
                continue;
            }
            let fails_with = table.fails_with.clone();
            let row = Row {
                name,
                words: words.clone(),
                fails_with,
            };
            match known.get_mut(&words) {
                None => {
                    known.insert(words, (made.rows.len(), table.is_row));
                    made.rows.push(row);
                }
                Some((at, is_written)) => {
                    let first = &mut made.rows[*at];
                    if table.is_row && !*is_written {
                        // It says more of a combination that the axes have.
                        *first = row;
                        *is_written = true;
                    } else if changed.is_none() {
                        settle(first, *is_written, &row, table)?;
                    }
                }
            }
        }
    }
    check(made)
}

/// That a second row with the command of the first, which may be written out, says the same of it.
fn settle(first: &Row, is_written: bool, second: &Row, table: &Table) -> Result<()> {
    let (name, line) = (&second.name, table.line);
    ensure!(
        !table.is_row,
        "the row {name} of line {line} is the same job as {}; leave one of them out",
        first.name
    );
    ensure!(
        is_written || first.fails_with == second.fails_with,
        "the axes of line {line} have {name} once more, with another fails-with; write that row out in [[rows]]"
    );
    Ok(())
}

/// That names are names, and that there is something to do.
fn check(mut made: Rows) -> Result<Rows> {
    let mut names = HashMap::new();
    for row in &made.rows {
        if let Some(other) = names.insert(row.name.as_str(), row) {
            bail!(
                "two rows have the name {}: {} and {}; give one of them another name",
                row.name,
                other.words.join(" "),
                row.words.join(" ")
            );
        }
    }
    let mut seen = Vec::new();
    made.left_out.retain(|out| {
        let is_new = !names.contains_key(out.name.as_str()) && !seen.contains(&out.name);
        seen.push(out.name.clone());
        is_new
    });
    if made.rows.is_empty() {
        match made.left_out.first() {
            Some(LeftOut { name, why }) => {
                bail!("no row is left; the first, {name}, cannot be: {why}")
            }
            None => bail!(
                "there is no row; a matrix needs [[axes]] or [[rows]]: docs/matrix.md has an example"
            ),
        }
    }
    Ok(made)
}

/// All combinations of `axes` with those of `over` instead of their own, the scenario's values slowest, then by the names of options.
fn product(axes: &Axes, over: &Axes) -> Result<Vec<Settings>> {
    let own = axes
        .iter()
        .filter(|(name, _)| over.iter().all(|(other, _)| other != name));
    let mut axes: Vec<_> = own.chain(over).collect();
    axes.sort_by_key(|(name, _)| (name != SCENARIO, name.clone()));
    let counts = axes.iter().map(|(_, values)| values.len());
    let count = counts.fold(1_usize, usize::saturating_mul);
    ensure!(
        count <= MOST,
        "{count} combinations are more than {MOST}; leave out some values, or make several plans"
    );
    let mut all = vec![Settings::new()];
    for (name, values) in axes {
        let more = |settings: &Settings| {
            let each = values.iter().map(|value| {
                let mut settings = settings.clone();
                settings.insert(name.clone(), value.clone());
                settings
            });
            each.collect::<Vec<_>>()
        };
        all = all.iter().flat_map(more).collect();
    }
    Ok(all)
}

/// Settings with the scenario first.
fn in_order(settings: &Settings) -> impl Iterator<Item = (&str, &Value)> {
    let first = settings.get_key_value(SCENARIO);
    let rest = settings.iter().filter(|(name, _)| *name != SCENARIO);
    first
        .into_iter()
        .chain(rest)
        .map(|(name, value)| (name.as_str(), value))
}

/// The name of a row with these settings.
fn name(options: &Options, settings: &Settings) -> String {
    let parts = in_order(settings).filter_map(|(name, value)| options.part(name, value));
    let parts: Vec<String> = parts.collect();
    match parts.is_empty() {
        true => DEFAULT.to_owned(),
        false => parts.join("/"),
    }
}

/// The name of a row that has one of its own: what the command line has put over it stands behind that.
fn named(options: &Options, name: &str, settings: &Settings, table: &Table) -> String {
    let is_own = |option: &str, value: &Value| {
        let mut axes = table.axes.iter();
        axes.any(|(own, values)| own == option && values.contains(value))
    };
    let more = in_order(settings).filter(|(option, value)| !is_own(option, value));
    let parts = more.filter_map(|(option, value)| options.part(option, value));
    let mut all = vec![name.to_owned()];
    all.extend(parts);
    all.join("/")
}

/// Why a combination of `table`, one of whose options the command line may have `changed`, is left out, if the plan says so.
fn left_out(plan: &Plan, table: &Table, changed: Option<&str>, all: &Settings) -> Option<String> {
    if let (Some(name), Some(_)) = (changed, &table.fails_with) {
        return Some(format!("how it must fail is known for another {name} only"));
    }
    excluded(&plan.exclusions, all).filter(|_| !table.is_row)
}

fn excluded(exclusions: &[Exclusion], settings: &Settings) -> Option<String> {
    let found = exclusions.iter().find(|exclusion| {
        exclusion.axes.iter().all(|(name, values)| {
            let own = settings.get(name);
            let own = own.map_or(DEFAULT, |value| value.used.as_str());
            values.iter().any(|value| value.used == own)
        })
    })?;
    let why = found.why.as_deref();
    Some(why.unwrap_or("the plan excludes it").to_owned())
}

#[cfg(test)]
mod tests;
