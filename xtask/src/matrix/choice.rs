//! Which rows of a matrix are run here: filters and shards.

use std::str::FromStr;

use anyhow::{Result, bail};

use super::rows::Row;

/// One part of several, which together have every row once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Counted from 1.
    number: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let parts = parts.and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err("a shard is I/N with I from 1 to N: the four of --shard 1/4 to --shard 4/4 together run every row once".to_owned()),
        }
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl Shard {
    /// Whether it has what is number `index`, from 0: neighbours, which often take as long as each other, are in different shards.
    const fn has(self, index: usize) -> bool {
        index % self.of == self.number - 1
    }
}

/// The rows that have one of `only` in their name, if there is any, and of those the shard's. Each comes with its number in the
/// whole plan, from 1, so that results of shards can lie side by side.
pub fn choose(rows: &[Row], only: &[String], shard: Option<Shard>) -> Result<Vec<(usize, Row)>> {
    let is_wanted = |row: &Row| only.is_empty() || only.iter().any(|text| row.name.contains(text));
    if let Some(text) = only
        .iter()
        .find(|text| !rows.iter().any(|row| row.name.contains(*text)))
    {
        bail!("no row has `{text}` in its name; --list shows the names of all");
    }
    let wanted = (1..).zip(rows).filter(|(_, row)| is_wanted(row));
    let own = wanted
        .enumerate()
        .filter(|(index, _)| shard.is_none_or(|shard| shard.has(*index)));
    Ok(own
        .map(|(_, (number, row))| (number, row.clone()))
        .collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(name: &str) -> Row {
        Row {
            name: name.to_owned(),
            words: Vec::new(),
            fails_with: None,
        }
    }

    #[test]
    fn a_shard_is_one_of_several() {
        assert_eq!("1/4".parse::<Shard>().unwrap().to_string(), "1/4");
        for wrong in ["", "1", "0/4", "5/4", "1/0", "a/4", "1/4/2", "-1/4", "1/"] {
            let error = wrong.parse::<Shard>().expect_err(wrong);
            assert!(error.contains("I from 1 to N"), "{error}");
        }
    }

    #[test]
    fn filters_are_a_union_and_each_must_name_a_row() {
        let rows = ["kdump", "kdump/cpus=8", "nmi", "panic"].map(row);
        let names = |only: &[&str]| -> Result<Vec<(usize, String)>> {
            let only: Vec<String> = only.iter().map(|&text| text.to_owned()).collect();
            let chosen = choose(&rows, &only, None)?.into_iter();
            Ok(chosen.map(|(number, row)| (number, row.name)).collect())
        };
        assert_eq!(names(&[]).unwrap().len(), 4);
        let two = names(&["cpus=", "nmi"]).unwrap();
        assert_eq!(two, [(2, "kdump/cpus=8".into()), (3, "nmi".into())]);
        let error = names(&["nmi", "reboot"]).unwrap_err().to_string();
        assert!(error.starts_with("no row has `reboot`"), "{error}");
    }

    proptest! {
        #[test]
        fn shards_together_have_every_row_once_and_are_as_large_as_each_other(count in 0_usize..100, of in 1_usize..12, is_filtered in any::<bool>()) {
            let rows: Vec<Row> = (0..count).map(|number| row(&format!("row-{number}"))).collect();
            let only = if is_filtered && count > 0 { vec!["row".to_owned()] } else { Vec::new() };
            let mut all = Vec::new();
            for number in 1..=of {
                let shard: Shard = format!("{number}/{of}").parse().unwrap();
                let own = choose(&rows, &only, Some(shard)).unwrap_or_default();
                prop_assert_eq!(&own, &choose(&rows, &only, Some(shard)).unwrap_or_default());
                prop_assert!(own.len() == count / of || own.len() == count / of + 1);
                prop_assert!(own.is_sorted_by_key(|(number, _)| *number));
                all.extend(own);
            }
            all.sort_by_key(|(number, _)| *number);
            let whole: Vec<_> = (1..).zip(rows).collect();
            prop_assert_eq!(all, whole);
        }
    }
}
