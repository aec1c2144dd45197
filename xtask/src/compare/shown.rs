//! A comparison for people: two columns, then what is different.

use std::fmt;

use super::rule::Weight;
use super::summary::{Cpu, Rung, Summary};
use super::{Comparison, story};

/// A column is no wider, unless a word is.
const WIDEST: usize = 56;

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::default();
        let both = [&self.a, &self.b];
        table.line("", ["A", "B"].map(str::to_owned));
        table.line("", both.map(|side| side.name.clone()));
        table.line("kernel", both.map(kernel));
        table.line(
            "machine",
            both.map(|side| format!("{}, EL3: {}", side.machine, side.el3)),
        );
        table.line(
            "passed",
            both.map(|side| format!("{} of {}", side.passed, side.runs)),
        );
        table.title("Stop ladder, in ms: least, median, most");
        for name in rungs(both) {
            let rung = |side: &Summary| {
                side.rungs
                    .iter()
                    .find(|rung| rung.name == name)
                    .map_or("-".to_owned(), time)
            };
            table.line(name, both.map(rung));
        }
        table.title("CPUs");
        for number in cpus(both) {
            let of = |side: &Summary| {
                side.cpus
                    .iter()
                    .find(|cpu| cpu.cpu == number)
                    .map_or("no dump".to_owned(), cpu)
            };
            table.line(&format!("CPU {number}"), both.map(of));
        }
        if both.iter().any(|side| side.pages.is_some()) {
            table.title("Pages");
            for class in classes(both) {
                let of = |side: &Summary| {
                    let pages = side.pages.as_ref();
                    pages.map_or("not judged".to_owned(), |pages| {
                        pages.get(class).unwrap_or(&0).to_string()
                    })
                };
                table.line(class, both.map(of));
            }
        }
        write!(f, "{table}")?;
        self.faults(f)?;
        story_lines(f, self.story.as_ref())?;
        self.verdict(f)
    }
}

impl Comparison {
    fn faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = (&self.a.faults, &self.b.faults);
        if a.is_empty() && b.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nFaults")?;
        for fault in a.union(b) {
            let who = match (a.contains(fault), b.contains(fault)) {
                (true, true) => "both  ",
                (true, false) => "only A",
                _ => "only B",
            };
            writeln!(f, "  {who}  {}", fault.replace('\n', "\n          "))?;
        }
        Ok(())
    }

    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for difference in &self.differences {
            let weight = match difference.weight {
                Weight::Worse => "worse",
                Weight::Better => "better",
                Weight::Other => "other",
            };
            writeln!(f, "{weight:6}  {}", difference.text)?;
        }
        match self.worse {
            true => writeln!(f, "B is worse"),
            false => writeln!(f, "B is no worse"),
        }
    }
}

fn story_lines(f: &mut fmt::Formatter<'_>, story: Option<&story::Differences>) -> fmt::Result {
    let Some(story) = story else {
        return writeln!(
            f,
            "\nThe console is not compared: one of the reports was written before its lines were kept"
        );
    };
    if story.only_a.is_empty() && story.only_b.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nConsole, but for times, addresses and numbers")?;
    for (who, lines) in [("only A", &story.only_a), ("only B", &story.only_b)] {
        for line in lines {
            writeln!(f, "  {who}  | {line}")?;
        }
    }
    Ok(())
}

fn kernel(side: &Summary) -> String {
    let release = side.kernel.as_deref().unwrap_or("not known");
    match &side.build_id {
        Some(id) => format!("{release}, build {}", id.get(..12).unwrap_or(id)),
        None => release.to_owned(),
    }
}

fn time(rung: &Rung) -> String {
    match rung.milliseconds {
        Some(ms) if ms.min < ms.max => format!("{:.3}, {:.3}, {:.3}", ms.min, ms.median, ms.max),
        Some(ms) => format!("{:.3}", ms.median),
        None => "-".to_owned(),
    }
}

fn cpu(cpu: &Cpu) -> String {
    let how: Vec<&str> = cpu.stopped.iter().map(String::as_str).collect();
    let mut text = how.join(" or ");
    if cpu.wedged {
        text = format!("wedged, {text}");
    }
    if cpu.missing > 0 {
        text += ", missing";
    }
    if let Some((equal, all)) = cpu.equal.zip(cpu.registers) {
        text += &format!(", {equal} of {all} registers");
    }
    text
}

/// The rungs of both, each once.
fn rungs(both: [&Summary; 2]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for rung in both.iter().flat_map(|side| &side.rungs) {
        if !names.contains(&rung.name.as_str()) {
            names.push(&rung.name);
        }
    }
    names
}

fn cpus(both: [&Summary; 2]) -> std::collections::BTreeSet<u32> {
    let all = both.iter().flat_map(|side| &side.cpus);
    all.map(|cpu| cpu.cpu).collect()
}

fn classes(both: [&Summary; 2]) -> std::collections::BTreeSet<&str> {
    let all = both.iter().filter_map(|side| side.pages.as_ref());
    all.flat_map(|pages| pages.keys().map(String::as_str))
        .collect()
}

/// Lines of a name and two columns, with titles between.
#[derive(Default)]
struct Table(Vec<(String, Option<[String; 2]>)>);

impl Table {
    fn line(&mut self, name: &str, columns: [String; 2]) {
        self.0.push((name.to_owned(), Some(columns)));
    }

    fn title(&mut self, title: &str) {
        self.0.push((title.to_owned(), None));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || {
            self.0
                .iter()
                .filter_map(|(name, columns)| Some((name, columns.as_ref()?)))
        };
        let width = |text: &String| text.chars().count();
        let names = lines().map(|(name, _)| width(name)).max().unwrap_or(0);
        let first = lines()
            .map(|(_, [a, _])| width(a))
            .max()
            .unwrap_or(0)
            .min(WIDEST);
        for (name, columns) in &self.0 {
            match columns {
                None => writeln!(f, "\n{name}")?,
                Some([a, b]) => {
                    let line = format!("  {name:names$}  {a:first$}  {b}");
                    writeln!(f, "{}", line.trim_end())?;
                }
            }
        }
        Ok(())
    }
}
