//! What a matrix is made of: tables of axes, single rows, and what is left out.

use std::path::Path;

use super::options::{Options, Settings, Value};

/// Options, and the values that each is to have.
pub type Axes = Vec<(String, Vec<Value>)>;

/// A table of a plan: the product of its axes, or a single row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The line that it begins in; 0 on the command line.
    pub line: usize,
    /// Whether it is a row, which is to be there whatever is left out.
    pub is_row: bool,
    /// The name of such a row, if it has one of its own.
    pub name: Option<String>,
    /// Its options.
    pub axes: Axes,
    /// What each fault has to say, if its rows must fail.
    pub fails_with: Option<String>,
}

/// Combinations that are left out: those that have for each option one of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusion {
    /// The options.
    pub axes: Axes,
    /// The user's reason.
    pub why: Option<String>,
}

/// What a file or a command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What every row has unless it says otherwise.
    pub common: Settings,
    /// In order.
    pub tables: Vec<Table>,
    /// What is left out.
    pub exclusions: Vec<Exclusion>,
}

impl Plan {
    /// One of these axes alone.
    pub fn of_axes(axes: Axes) -> Self {
        Self {
            tables: vec![Table {
                axes,
                ..Table::default()
            }],
            ..Self::default()
        }
    }
}

/// An axis of the command line, `NAME=VALUE,VALUE`. Values that have commas are separated by semicolons.
pub fn axis(options: &Options, text: &str) -> Result<(String, Vec<Value>), String> {
    let (name, list) = text
        .split_once('=')
        .ok_or("an axis is NAME=VALUE,VALUE, such as scenario=kdump,hardlockup")?;
    options.check_name(name)?;
    let separator = if list.contains(';') { ';' } else { ',' };
    let texts = list.split(separator).map(str::trim);
    let texts: Vec<&str> = texts.filter(|text| !text.is_empty()).collect();
    let values = values(options, name, &texts, Path::new(""))?;
    Ok((name.to_owned(), values))
}

/// The values `texts` of the option `name`, each once.
pub fn values(
    options: &Options,
    name: &str,
    texts: &[impl AsRef<str>],
    folder: &Path,
) -> Result<Vec<Value>, String> {
    let mut values = Vec::new();
    for text in texts {
        let value = options.value(name, text.as_ref(), folder)?;
        if !values.contains(&value) {
            values.push(value);
        }
    }
    match values.is_empty() {
        true => Err(format!("{name} has no value; `default` leaves it out")),
        false => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let (_, values) = axis(&Options::of_kdump(), text).unwrap();
        values.into_iter().map(|value| value.shown).collect()
    }

    #[test]
    fn an_axis_is_a_list() {
        assert_eq!(shown("scenario=kdump,nmi,kdump"), ["kdump", "nmi"]);
        assert_eq!(shown("wedge=1,3;0;default"), ["1,3", "0", "default"]);
        assert_eq!(shown("wedge=1,3;"), ["1,3"]);
    }

    #[test]
    fn an_axis_that_is_none_says_what_one_is() {
        let refused = |text| axis(&Options::of_kdump(), text).unwrap_err();
        assert!(refused("scenario").contains("NAME=VALUE,VALUE"));
        assert!(refused("scenario=").contains("has no value"));
        assert!(refused("scenaro=kdump").contains("no option `scenaro`"));
        assert!(refused("cpus=2,x").contains("'x'"));
    }
}
