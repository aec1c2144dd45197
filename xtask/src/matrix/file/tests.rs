use super::*;

fn read(text: &str) -> Result<Plan> {
    parse(&Options::of_kdump(), text, Path::new("plans"))
}

fn refused(text: &str) -> String {
    read(text).expect_err(text).to_string()
}

fn shown(axes: &super::super::plan::Axes) -> Vec<(&str, Vec<&str>)> {
    let axes = axes.iter();
    axes.map(|(name, values)| {
        let values = values.iter().map(|value| value.shown.as_str());
        (name.as_str(), values.collect())
    })
    .collect()
}

#[test]
fn every_kind_of_table_is_read() {
    let plan = read(
        "[common]\ntimeout = 600\n\n[[axes]]\nscenario = [\"kdump\", \"nmi\"]\noracle = [false, true]\n\n\
         [[rows]]\nname = \"many\"\ncpus = 8\nwedge = \"1-7\"\nfails-with = \"CPU 7\"\n\n\
         [[exclude]]\noracle = true\nscenario = \"nmi\"\nwhy = \"too slow\"\n",
    )
    .unwrap();
    assert_eq!(plan.common["timeout"].used, "600");
    let [axes, row] = &plan.tables[..] else {
        panic!("{plan:?}");
    };
    assert_eq!(
        (axes.line, axes.is_row, &axes.fails_with),
        (4, false, &None)
    );
    assert_eq!(
        shown(&axes.axes),
        [
            ("scenario", vec!["kdump", "nmi"]),
            ("oracle", vec!["false", "true"])
        ]
    );
    assert_eq!((row.line, row.is_row), (8, true));
    assert_eq!(row.name.as_deref(), Some("many"));
    assert_eq!(row.fails_with.as_deref(), Some("CPU 7"));
    assert_eq!(
        shown(&row.axes),
        [("cpus", vec!["8"]), ("wedge", vec!["1-7"])]
    );
    assert_eq!(plan.exclusions[0].why.as_deref(), Some("too slow"));
}

#[test]
fn paths_are_where_the_file_is() {
    let plan =
        read("[[axes]]\nkernel = [\"Image\", \"tree:../linux\", \"ours\", \"/boot/Image\"]\n")
            .unwrap();
    let (_, values) = &plan.tables[0].axes[0];
    let used: Vec<&str> = values.iter().map(|value| value.used.as_str()).collect();
    assert_eq!(
        used,
        ["plans/Image", "tree:plans/../linux", "ours", "/boot/Image"]
    );
    assert_eq!(values[0].shown, "Image");
}

#[test]
fn what_is_wrong_is_named_with_its_line_and_the_mend() {
    for (text, line, words) in [
        (
            "[[axes]]\ncpus = 2\nscenaro = \"nmi\"\n",
            3,
            "no option `scenaro` of kdump; there are fails-with, append",
        ),
        (
            "[[axes]]\nscenario = \"nmi\"\n\n[[axes]]\nscenario = [\"kdump\", \"nmy\"]\n",
            5,
            "invalid value 'nmy'",
        ),
        (
            "[[rows]]\nreport = \"a.json\"\n",
            2,
            "report is decided by the matrix itself",
        ),
        (
            "[[axes]]\ncpus = { from = 2 }\n",
            2,
            "a value or a list of values",
        ),
        (
            "[[axes]]\ncpus = [[2], [4]]\n",
            2,
            "a value or a list of values",
        ),
        ("[[axes]]\ncpus = []\n", 2, "has no value"),
        ("[[axes]]\ncpus = 1.5\n", 2, "a value or a list of values"),
        ("[[axes]]\nname = \"x\"\n", 2, "no option `name`"),
        (
            "\n[[rows]]\ncpus = [2, 4]\n",
            2,
            "a row has one value of cpus",
        ),
        (
            "[[rows]]\nfails-with = true\n",
            2,
            "words in quotation marks",
        ),
        (
            "[[rows]]\nfails-with = \"\"\n",
            2,
            "words in quotation marks",
        ),
        ("[[exclude]]\nwhy = \"so\"\n", 1, "leaves nothing"),
        ("[[axis]]\ncpus = 2\n", 1, "unknown field `axis`"),
        ("rows = 3\n", 1, "invalid type"),
        ("[[axes]]\ncpus 2\n", 2, "docs/matrix.md has an example"),
        ("[[axes]]\ncpus = 2\ncpus = 4\n", 3, "duplicate key"),
    ] {
        let error = refused(text);
        assert!(
            error.starts_with(&format!("line {line}")),
            "{text}: {error}"
        );
        assert!(error.contains(words), "{text}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let error = refused("[common]\ncpus = [2, 4]\n");
    assert!(
        error.contains("[common] has several values of cpus"),
        "{error}"
    );
}

#[test]
fn the_page_has_an_example_that_is_read_and_names_every_key() {
    let page = include_str!("../../../../docs/matrix.md");
    let mut examples = page.split("```toml\n").skip(1).peekable();
    assert!(examples.peek().is_some());
    for example in examples {
        let plan = read(example.split("```").next().unwrap()).unwrap();
        assert!(!plan.tables.is_empty());
    }
    for key in [
        "[common]",
        "[[axes]]",
        "[[rows]]",
        "[[exclude]]",
        NAME,
        FAILS_WITH,
        WHY,
    ] {
        assert!(page.contains(&format!("`{key}`")), "{key}");
    }
}
