use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;

use super::super::plan::values;
use super::*;

fn axis(name: &str, texts: &[&str]) -> (String, Vec<Value>) {
    let values = values(&Options::of_kdump(), name, texts, Path::new("")).unwrap();
    (name.to_owned(), values)
}

fn table(axes: &[(&str, &[&str])]) -> Table {
    Table {
        line: 7,
        axes: axes.iter().map(|(name, texts)| axis(name, texts)).collect(),
        ..Table::default()
    }
}

fn row(name: Option<&str>, axes: &[(&str, &[&str])]) -> Table {
    Table {
        is_row: true,
        name: name.map(str::to_owned),
        ..table(axes)
    }
}

fn plan(tables: &[Table]) -> Plan {
    Plan {
        tables: tables.to_vec(),
        ..Plan::default()
    }
}

/// The rows by the rules of kdump itself.
fn made(plan: &Plan, over: &Axes) -> Result<Rows> {
    let options = Options::of_kdump();
    rows(&options, plan, over, |words| options.look(words))
}

fn names(rows: &Rows) -> Vec<&str> {
    rows.rows.iter().map(|row| row.name.as_str()).collect()
}

fn refused(tables: &[Table]) -> String {
    made(&plan(tables), &Axes::new()).unwrap_err().to_string()
}

#[test]
fn axes_are_multiplied_and_the_scenario_comes_first() {
    let plan = plan(&[table(&[
        ("cpus", &["default", "8"]),
        ("scenario", &["kdump", "nmi"]),
        ("oracle", &["false", "true"]),
    ])]);
    let made = made(&plan, &Axes::new()).unwrap();
    assert_eq!(
        names(&made),
        [
            "kdump",
            "kdump/oracle",
            "kdump/cpus=8",
            "kdump/cpus=8/oracle",
            "nmi",
            "nmi/oracle",
            "nmi/cpus=8",
            "nmi/cpus=8/oracle"
        ]
    );
    assert_eq!(
        made.rows[3].words,
        ["--scenario", "kdump", "--cpus", "8", "--oracle"]
    );
}

#[test]
fn tables_are_united_and_a_row_says_more_of_one() {
    let one = table(&[("scenario", &["kdump", "nmi"])]);
    let two = table(&[("scenario", &["kdump", "panic"])]);
    let mut lost = row(Some("lost"), &[("scenario", &["nmi"])]);
    lost.fails_with = Some("CPU".into());
    for tables in [
        [lost.clone(), one.clone(), two.clone()],
        [one.clone(), two.clone(), lost.clone()],
    ] {
        let made = made(&plan(&tables), &Axes::new()).unwrap();
        let all: BTreeSet<&str> = names(&made).into_iter().collect();
        assert_eq!(all, BTreeSet::from(["kdump", "lost", "panic"]));
        assert_eq!(made.rows.len(), 3);
    }
    let mut other = two;
    other.fails_with = Some("x".into());
    assert!(refused(&[one, other]).contains("with another fails-with"));
}

#[test]
fn what_cannot_be_is_left_out_with_its_reason_and_refused_if_it_is_written_out() {
    let axes: &[(&str, &[&str])] = &[
        ("scenario", &["kdump", "nmi"]),
        ("wedge", &["2", "default"]),
    ];
    let made = made(&plan(&[table(axes)]), &Axes::new()).unwrap();
    assert_eq!(names(&made), ["kdump/wedge=2", "kdump", "nmi"]);
    assert_eq!(made.left_out.len(), 1);
    assert_eq!(made.left_out[0].name, "nmi/wedge=2");
    assert!(made.left_out[0].why.contains("wedges all CPUs"));
    let written = row(None, &[("scenario", &["nmi"]), ("wedge", &["2"])]);
    let error = refused(std::slice::from_ref(&written));
    assert!(
        error.starts_with("the row nmi/wedge=2 of line 7 cannot be: "),
        "{error}"
    );
    let error = refused(&[Table {
        is_row: false,
        ..written
    }]);
    assert!(
        error.starts_with("no row is left; the first, nmi/wedge=2, "),
        "{error}"
    );
    assert!(refused(&[]).contains("docs/matrix.md"));
}

#[test]
fn exclusions_are_by_all_of_their_options_and_spare_what_is_written_out() {
    let exclusion = |axes: &[(&str, &[&str])], why: Option<&str>| Exclusion {
        axes: axes.iter().map(|(name, texts)| axis(name, texts)).collect(),
        why: why.map(str::to_owned),
    };
    let axes = table(&[
        ("scenario", &["kdump", "nmi"]),
        ("cpus", &["default", "2", "8"]),
    ]);
    let mut plan = plan(&[axes, row(None, &[("scenario", &["nmi"]), ("cpus", &["8"])])]);
    plan.exclusions = vec![
        exclusion(
            &[("scenario", &["nmi"]), ("cpus", &["2", "8"])],
            Some("slow"),
        ),
        exclusion(&[("scenario", &["kdump"]), ("cpus", &["default"])], None),
    ];
    let made = made(&plan, &Axes::new()).unwrap();
    assert_eq!(
        names(&made),
        ["kdump/cpus=2", "kdump/cpus=8", "nmi", "nmi/cpus=8"]
    );
    let out: Vec<_> = made
        .left_out
        .iter()
        .map(|out| (out.name.as_str(), out.why.as_str()))
        .collect();
    assert_eq!(
        out,
        [("kdump", "the plan excludes it"), ("nmi/cpus=2", "slow")]
    );
}

#[test]
fn a_name_or_a_job_that_is_there_twice_is_refused() {
    let one = row(Some("one"), &[("cpus", &["2"])]);
    let error = refused(&[one.clone(), row(Some("one"), &[("cpus", &["8"])])]);
    assert!(
        error.starts_with("two rows have the name one: --cpus 2 and --cpus 8;"),
        "{error}"
    );
    let error = refused(&[one, row(Some("two"), &[("cpus", &["2"])])]);
    assert_eq!(
        error,
        "the row two of line 7 is the same job as one; leave one of them out"
    );
    let many: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(
        refused(&[table(&[("timeout", &many[1..]), ("append", &many)])])
            .contains("more than 10000")
    );
}

#[test]
fn the_command_line_puts_its_values_over_those_of_the_plan() {
    let mut lost = row(None, &[("sdei", &["off"])]);
    lost.fails_with = Some("CPU 2".into());
    let mut plan = plan(&[
        table(&[("scenario", &["kdump", "nmi"]), ("cpus", &["2", "8"])]),
        row(Some("mine"), &[("scenario", &["panic"])]),
        lost,
    ]);
    plan.common
        .extend([axis("timeout", &["600"])].map(|(name, mut values)| (name, values.remove(0))));
    let over = vec![axis("cpus", &["4"]), axis("kernel", &["ours", "Image"])];
    let rows = made(&plan, &over).unwrap();
    assert_eq!(
        names(&rows),
        [
            "kdump/cpus=4/kernel=ours",
            "kdump/cpus=4/kernel=Image",
            "nmi/cpus=4/kernel=ours",
            "nmi/cpus=4/kernel=Image",
            "mine/cpus=4/kernel=ours",
            "mine/cpus=4/kernel=Image",
            "cpus=4/kernel=ours/sdei=off",
            "cpus=4/kernel=Image/sdei=off"
        ]
    );
    let last = rows.rows.last().unwrap();
    assert_eq!(
        last.words,
        [
            "--cpus",
            "4",
            "--kernel",
            "Image",
            "--sdei",
            "off",
            "--timeout",
            "600"
        ]
    );
    assert!(last.fails_with.is_some());
    // How a row must fail is not known of another value.
    let rows = made(&plan, &vec![axis("sdei", &["on"])]).unwrap();
    assert!(rows.rows.iter().all(|row| row.fails_with.is_none()));
    assert!(
        rows.left_out[0].why.contains("another sdei"),
        "{:?}",
        rows.left_out
    );
}

#[test]
fn the_plan_that_is_built_in_is_as_it_is_described() {
    let options = Options::of_kdump();
    let text = include_str!("../default.toml");
    let plan = super::super::file::parse(&options, text, Path::new("")).unwrap();
    let made = made(&plan, &Axes::new()).unwrap();
    assert!((20..=40).contains(&made.rows.len()), "{:?}", names(&made));
    assert!(made.left_out.is_empty(), "{:?}", made.left_out);
}

/// A plan of some tables out of a few options.
fn some_plan() -> impl Strategy<Value = Plan> {
    let choices: [(&'static str, &'static [&'static str]); 4] = [
        ("scenario", &["kdump", "nmi", "panic", "default"]),
        ("cpus", &["2", "4", "default"]),
        ("machine", &["virt", "virt-gicv2", "raspi4b"]),
        ("oracle", &["true", "false"]),
    ];
    let axes = choices.map(|(name, texts)| {
        let some = proptest::sample::subsequence(texts.to_vec(), 0..=texts.len()).prop_shuffle();
        some.prop_map(move |texts| (name, texts))
    });
    let table = Vec::from(axes).prop_shuffle().prop_map(|axes| {
        let axes: Vec<(&str, &[&str])> = axes
            .iter()
            .map(|(name, texts)| (*name, texts.as_slice()))
            .collect();
        let axes: Vec<_> = axes
            .into_iter()
            .filter(|(_, texts)| !texts.is_empty())
            .collect();
        table(&axes)
    });
    let tables = proptest::collection::vec(table, 1..4);
    tables.prop_map(|tables| plan(&tables))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn names_and_commands_are_there_once_and_nothing_is_lost(plan in some_plan()) {
        let options = Options::of_kdump();
        // As a rule of its own, so that something cannot be: an NMI has no oracle.
        let look = |words: &[String]| match words.contains(&"nmi".to_owned()) && words.contains(&"--oracle".to_owned()) {
            true => Err("no".to_owned()),
            false => Ok(()),
        };
        let made = rows(&options, &plan, &Axes::new(), look);
        let wanted: BTreeSet<Vec<String>> = plan
            .tables
            .iter()
            .flat_map(|table| product(&table.axes, &Axes::new()).unwrap())
            .map(|settings| options.words(in_order(&settings)))
            .collect();
        let possible = wanted.iter().filter(|words| look(words).is_ok()).count();
        let Ok(made) = made else {
            prop_assert_eq!(possible, 0);
            return Ok(());
        };
        let names: BTreeSet<&str> = names(&made).into_iter().collect();
        let commands: BTreeSet<&Vec<String>> = made.rows.iter().map(|row| &row.words).collect();
        prop_assert_eq!(names.len(), made.rows.len());
        prop_assert_eq!(commands.len(), made.rows.len());
        prop_assert_eq!(made.rows.len(), possible);
        let out: BTreeSet<&str> = made.left_out.iter().map(|out| out.name.as_str()).collect();
        prop_assert_eq!(out.len(), made.left_out.len());
        prop_assert_eq!(out.len() + possible, wanted.len());
        // The order in which options are written changes no name.
        let mut turned = plan.clone();
        turned.tables.iter_mut().for_each(|table| table.axes.reverse());
        let again = rows(&options, &turned, &Axes::new(), look).unwrap();
        prop_assert_eq!(again.rows, made.rows);
    }
}
