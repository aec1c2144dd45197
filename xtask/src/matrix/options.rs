//! The options of `cargo xtask kdump` that a row can have, as clap knows them: none is listed here.

use std::collections::BTreeMap;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, FromArgMatches, ValueHint};
use lab::kdump::Kdump;

/// What leaves an option out.
pub const DEFAULT: &str = "default";

/// The option that says what is done. A row's name begins with its value.
pub const SCENARIO: &str = "scenario";

/// The option that chooses a kernel, also a release of Debian's and a source tree.
const KERNEL: &str = "kernel";
const OURS: &str = "ours";
const STOCK: &str = "stock:";
const TREE: &str = "tree:";

/// What the matrix decides itself for each row.
const OWN: [&str; 7] = ["report", "html", "format", "keep", "verbose", "gdb", "help"];

/// A value of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// As the user wrote it, which names have.
    pub shown: String,
    /// As the command has it: a path leads to where it leads from the file that it stands in.
    pub used: String,
}

/// Options and the value of each. One that is not there is left out of the command.
pub type Settings = BTreeMap<String, Value>;

/// The options that rows can have.
pub struct Options {
    command: clap::Command,
}

impl Options {
    /// Those of `cargo xtask kdump`, but for what a matrix decides itself.
    pub fn of_kdump() -> Self {
        let command = clap::Command::new("kdump").no_binary_name(true);
        let mut command = Kdump::augment_args(command);
        command.build();
        Self { command }
    }

    fn find(&self, name: &str) -> Option<&clap::Arg> {
        let mut all = self.command.get_arguments();
        all.find(|arg| arg.get_long() == Some(name) && !OWN.contains(&name))
    }

    /// Their names.
    pub fn names(&self) -> Vec<&str> {
        let all = self.command.get_arguments();
        let all = all.filter_map(clap::Arg::get_long);
        let mut names: Vec<&str> = all.filter(|name| !OWN.contains(name)).collect();
        names.sort_unstable();
        names
    }

    fn is_flag(&self, name: &str) -> bool {
        self.find(name)
            .is_some_and(|arg| matches!(arg.get_action(), ArgAction::SetTrue))
    }

    /// Why there is no option of that name, if there is none.
    pub fn check_name(&self, name: &str) -> Result<(), String> {
        if self.find(name).is_some() {
            return Ok(());
        }
        let why = match OWN.contains(&name) {
            true => format!("{name} is decided by the matrix itself"),
            false => format!("there is no option `{name}` of kdump"),
        };
        Err(format!("{why}; there are {}", self.names().join(", ")))
    }

    /// The value `text` of the option `name`, which there is; paths are relative to `folder`.
    pub fn value(&self, name: &str, text: &str, folder: &Path) -> Result<Value, String> {
        let value = Value {
            shown: text.to_owned(),
            used: self.resolved(name, text, folder),
        };
        if text == DEFAULT {
            return Ok(value);
        }
        if self.is_flag(name) {
            let is_one = text == "true" || text == "false";
            return match is_one {
                true => Ok(value),
                false => Err(format!("{name} is true or false, and not `{text}`")),
            };
        }
        let alone = self.words([(name, &value)]);
        let parsed = self.command.clone().try_get_matches_from(alone);
        match parsed {
            Err(error) if is_about_a_value(&error) => Err(sentence(&error)),
            _ => Ok(value),
        }
    }

    /// `text`, and if that is a path, from where we are.
    fn resolved(&self, name: &str, text: &str, folder: &Path) -> String {
        let path = |text: &str| folder.join(text).to_string_lossy().into_owned();
        if name == KERNEL {
            return match text.strip_prefix(TREE) {
                Some(tree) => format!("{TREE}{}", path(tree)),
                None if text == OURS || text.starts_with(STOCK) => text.to_owned(),
                None => path(text),
            };
        }
        let arg = self.find(name);
        match arg.is_some_and(|arg| arg.get_value_hint() == ValueHint::AnyPath) {
            true => path(text),
            false => text.to_owned(),
        }
    }

    /// What the name of a row has for an option, if that is in its command.
    pub fn part(&self, name: &str, value: &Value) -> Option<String> {
        match value.shown.as_str() {
            DEFAULT => None,
            "false" if self.is_flag(name) => None,
            "true" if self.is_flag(name) => Some(name.to_owned()),
            shown if name == SCENARIO => Some(shown.to_owned()),
            shown => Some(format!("{name}={shown}")),
        }
    }

    /// The words of the command that has these settings.
    pub fn words<'a>(
        &self,
        settings: impl IntoIterator<Item = (&'a str, &'a Value)>,
    ) -> Vec<String> {
        let mut words = Vec::new();
        for (name, value) in settings {
            let (name, used) = match (name, value.used.as_str()) {
                _ if value.shown == DEFAULT => continue,
                (KERNEL, OURS) => continue,
                (KERNEL, used) if used.starts_with(STOCK) => ("stock", &used[STOCK.len()..]),
                (KERNEL, used) if used.starts_with(TREE) => ("tree", &used[TREE.len()..]),
                other => other,
            };
            if self.is_flag(name) {
                words.extend((used == "true").then(|| format!("--{name}")));
            } else if used.starts_with('-') {
                words.push(format!("--{name}={used}"));
            } else {
                words.extend([format!("--{name}"), used.to_owned()]);
            }
        }
        words
    }

    /// The job of these words, or why it cannot be.
    pub fn job(&self, words: &[String]) -> Result<Kdump, String> {
        let matches = self.command.clone().try_get_matches_from(words);
        let kdump = matches.and_then(|matches| Kdump::from_arg_matches(&matches));
        kdump.map_err(|error| sentence(&error))
    }

    /// Why the job of these words cannot be done, as far as they say.
    pub fn look(&self, words: &[String]) -> Result<(), String> {
        let job = self.job(words)?;
        job.check_alone().map_err(|error| format!("{error:#}"))
    }
}

/// Whether clap says that a value is none, whatever else there is.
fn is_about_a_value(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidUtf8
    )
}

/// What clap has to say, in one line, without the usage.
fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let text = text.split("\nUsage:").next().unwrap_or_default();
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let line = lines.collect::<Vec<_>>().join("; ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use lab::plan::Scenario;

    use super::*;

    fn value(name: &str, text: &str) -> Result<Value, String> {
        Options::of_kdump().value(name, text, Path::new("plans"))
    }

    fn words(name: &str, text: &str) -> Vec<String> {
        let options = Options::of_kdump();
        options.words([(name, &value(name, text).unwrap())])
    }

    #[test]
    fn every_scenario_of_the_lab_is_one_here() {
        for scenario in Scenario::value_variants() {
            let name = scenario.to_possible_value().unwrap();
            value(SCENARIO, name.get_name()).unwrap();
        }
        let error = value(SCENARIO, "kdmp").unwrap_err();
        assert!(error.starts_with("invalid value 'kdmp' for"), "{error}");
        assert!(error.contains("kdump, panic"), "{error}");
    }

    #[test]
    fn an_option_that_is_none_or_the_matrixs_own_is_named() {
        let options = Options::of_kdump();
        let error = options.check_name("scenaro").unwrap_err();
        assert!(
            error.starts_with("there is no option `scenaro` of kdump; there are append, "),
            "{error}"
        );
        let error = options.check_name("report").unwrap_err();
        assert!(
            error.starts_with("report is decided by the matrix"),
            "{error}"
        );
        for name in options.names() {
            options.check_name(name).unwrap();
        }
    }

    #[test]
    fn values_are_read_by_kdump_itself() {
        for (name, wrong) in [
            ("cpus", "many"),
            ("machine", "vrit"),
            ("oracle", "on"),
            ("sdei", "true"),
            ("firmware", "tfa-9"),
            ("stock", "debian-1"),
            ("wedge", "5-2"),
            ("repeat", "0"),
        ] {
            let error = value(name, wrong).expect_err(name);
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_setting_is_words_of_the_command() {
        assert_eq!(words("wedge", "1,3"), ["--wedge", "1,3"]);
        assert_eq!(words("append", "-x"), ["--append=-x"]);
        assert_eq!(words("oracle", "true"), ["--oracle"]);
        assert!(words("oracle", "false").is_empty());
        assert!(words("wedge", "default").is_empty());
        assert!(words("kernel", "ours").is_empty());
        assert_eq!(words("kernel", "stock:debian-13"), ["--stock", "debian-13"]);
        assert_eq!(
            words("kernel", "tree:../linux"),
            ["--tree", "plans/../linux"]
        );
        assert_eq!(words("kernel", "Image"), ["--kernel", "plans/Image"]);
        assert_eq!(words("kernel", "/boot/Image"), ["--kernel", "/boot/Image"]);
        assert_eq!(words("initrd", "a.gz"), ["--initrd", "plans/a.gz"]);
    }

    #[test]
    fn what_cannot_be_says_why() {
        let options = Options::of_kdump();
        let look = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            options.look(&words)
        };
        look("--scenario nmi --machine virt-gicv2").unwrap();
        let error = look("--scenario nmi --wedge 2").unwrap_err();
        assert!(error.contains("wedges all CPUs"), "{error}");
        let error = look("--stock debian-13 --ending off").unwrap_err();
        assert!(error.contains("cannot be used with"), "{error}");
        assert!(!error.contains('\n') && !error.contains("Usage"), "{error}");
        let error = look("--machine virt-gicv2 --cpus 9").unwrap_err();
        assert!(error.contains('9') || error.contains('8'), "{error}");
    }
}
