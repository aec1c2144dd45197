use super::*;

fn matrix(words: &[&str]) -> Result<Matrix, clap::Error> {
    let command = Matrix::augment_args(clap::Command::new("matrix").no_binary_name(true));
    let matches = command.try_get_matches_from(words)?;
    clap::FromArgMatches::from_arg_matches(&matches)
}

fn chosen(words: &[&str]) -> Result<Chosen> {
    matrix(words)?.chosen(&Options::of_kdump())
}

#[test]
fn without_a_file_and_axes_it_is_the_plan_that_is_built_in() {
    let all = chosen(&[]).unwrap();
    let named = chosen(&["default"]).unwrap();
    assert_eq!(all.rows, named.rows);
    let alone = chosen(&["--axis", "scenario=nmi"]).unwrap();
    assert_eq!(alone.rows.len(), 1);
    assert_eq!(alone.rows[0].1.words, ["--scenario", "nmi"]);
    let over = chosen(&["default", "--axis", "cpu=max"]).unwrap();
    assert!(
        over.rows
            .iter()
            .all(|(_, row)| row.name.contains("/cpu=max"))
    );
}

#[test]
fn an_axis_that_is_given_twice_is_one() {
    let chosen = chosen(&["--axis", "cpus=2,4", "--axis", "cpus=4,8"]).unwrap();
    let names: Vec<&str> = chosen
        .rows
        .iter()
        .map(|(_, row)| row.name.as_str())
        .collect();
    assert_eq!(names, ["cpus=2", "cpus=4", "cpus=8"]);
}

#[test]
fn a_retry_is_refused_with_the_reason() {
    for words in [&["--retries", "2"][..], &["--retries"], &["--retries=1"]] {
        let error = matrix(words).err().expect("it is refused").to_string();
        assert!(error.contains("a retry hides"), "{error}");
    }
}

#[test]
fn what_is_wrong_is_said_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a"), "").unwrap();
    let keep = folder.path().to_str().unwrap();
    for (words, said) in [
        (&["--axis", "scenaro=nmi"][..], "no option `scenaro`"),
        (&["--axis", "scenario"], "NAME=VALUE"),
        (&["--shard", "5/4"], "I from 1 to N"),
        (
            &["--only", "nothing-like-it"],
            "no row has `nothing-like-it`",
        ),
        (
            &["/no/plan.toml"],
            "in the plan /no/plan.toml: cannot read it",
        ),
        (&["--axis", "kernel=tree:/no/tree"], "no folder /no/tree"),
        (&["--axis", "cpus=2,4", "--shard", "3/3"], "no row"),
        (&["--axis", "cpus=2", "--keep", keep], "is not empty"),
        (
            &["--axis", "scenario=nmi", "--axis", "wedge=2"],
            "wedges all CPUs",
        ),
    ] {
        let error = chosen(words).err().expect("it is refused");
        let error = format!("{error:#}");
        assert!(error.contains(said), "{words:?}: {error}");
    }
}

#[test]
fn a_list_has_the_commands_and_what_is_left_out() {
    let mut chosen = chosen(&["--axis", "scenario=kdump,nmi", "--axis", "wedge=2"]).unwrap();
    chosen.rows[0].1.fails_with = Some("CPU 2".into());
    let list = listing(&chosen);
    assert!(
        list.starts_with("kdump/wedge=2  cargo xtask kdump --scenario kdump --wedge 2  # must fail with: CPU 2\nleft out: nmi/wedge=2: "),
        "{list}"
    );
}

#[test]
fn a_result_says_how_to_have_it_again() {
    let row = Row {
        name: "kdump".into(),
        words: vec!["--append".into(), "a b".into()],
        fails_with: None,
    };
    let mut entry = entry(3, &row);
    entry.outcome = Outcome::Failed;
    entry.faults = vec!["CPU 2 is missing\nwholly".into()];
    entry.folder = Some("003-kdump".into());
    let case = case(&entry, None, Path::new("kept"));
    assert_eq!(
        case.details,
        [
            "CPU 2 is missing",
            "wholly",
            "again: cargo xtask kdump --append 'a b'",
            "all of it: kept/003-kdump"
        ]
    );
    assert_eq!(not_run(&entry).outcome, CaseOutcome::Skipped);
}
