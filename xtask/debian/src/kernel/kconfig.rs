//! What an option of Linux depends on, by the tree's Kconfig files: for telling a user why one did not take.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::config::Config;

/// The options that Kconfig files define, each with the conditions of every definition.
#[derive(Debug, Default)]
pub struct Kconfig {
    options: BTreeMap<String, Vec<Vec<String>>>,
}

impl Kconfig {
    /// Those of the tree at `root` that arm64 can have. What cannot be read is left out: it only helps to explain.
    pub fn of_tree(root: &Path) -> Self {
        let mut all = Self::default();
        all.walk(root, root);
        all
    }

    fn walk(&mut self, root: &Path, folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let is_other = folder == root.join("arch") && name != "arm64" && name != "Kconfig";
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !is_other => self.walk(root, &path),
                Ok(kind) if kind.is_file() && name.to_string_lossy().starts_with("Kconfig") => {
                    self.read(&fs::read_to_string(&path).unwrap_or_default());
                }
                _ => {}
            }
        }
    }

    /// Takes in what the text of a Kconfig file defines (Linux, Documentation/kbuild/kconfig-language.rst).
    fn read(&mut self, text: &str) {
        // Conditions of the blocks that are open.
        let mut blocks: Vec<Vec<String>> = Vec::new();
        let mut option: Option<String> = None;
        let mut help = Help::default();
        for line in text.replace("\\\n", " ").lines() {
            if help.has(line) {
                continue;
            }
            let line = line.split('#').next().unwrap_or_default().trim();
            let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
            let rest = rest.trim();
            match word {
                "config" | "menuconfig" => {
                    let conditions = blocks.iter().flatten().cloned().collect();
                    let known = self.options.entry(rest.to_owned()).or_default();
                    known.push(conditions);
                    option = Some(rest.to_owned());
                }
                "if" => {
                    option = None;
                    blocks.push(vec![rest.to_owned()]);
                }
                "menu" | "choice" => {
                    option = None;
                    blocks.push(Vec::new());
                }
                "endif" | "endmenu" | "endchoice" => {
                    option = None;
                    blocks.pop();
                }
                "comment" | "source" | "mainmenu" => option = None,
                "help" => help.begin(),
                "depends" => {
                    let condition = rest.strip_prefix("on").unwrap_or(rest).trim().to_owned();
                    let own = option.as_ref().and_then(|name| self.options.get_mut(name));
                    match own.and_then(|definitions| definitions.last_mut()) {
                        Some(conditions) => conditions.push(condition),
                        None => blocks.iter_mut().rev().take(1).for_each(|block| {
                            block.push(condition.clone());
                        }),
                    }
                }
                _ => {}
            }
        }
    }

    /// Why `line` of a fragment, such as `CONFIG_LKDTM=y`, is not in `config`.
    pub fn explain(&self, line: &str, config: &Config) -> String {
        let option = line.split_once('=').map_or(line, |(name, _)| name);
        let name = option.strip_prefix("CONFIG_").unwrap_or(option);
        let Some(definitions) = self.options.get(name) else {
            return "this Linux has no such option".to_owned();
        };
        // Of several definitions the one that lacks least.
        let lacks = definitions.iter().map(|conditions| {
            let mut lacks: Vec<String> = conditions
                .iter()
                .flat_map(|condition| lacking(condition, config))
                .collect();
            lacks.dedup();
            (conditions, lacks)
        });
        let Some((conditions, lacks)) = lacks.min_by_key(|(_, lacks)| lacks.len()) else {
            return "this Linux has no such option".to_owned();
        };
        if lacks.is_empty() {
            let now = config.value(name).unwrap_or("not set");
            return format!("other options decide it: it is {now}");
        }
        format!("it needs {}; {}", conditions.join(" && "), lacks.join(", "))
    }
}

/// The text of a help: from the line behind the keyword to the first that is indented less than it begins.
#[derive(Default)]
struct Help {
    is_open: bool,
    indent: Option<usize>,
}

impl Help {
    fn begin(&mut self) {
        *self = Self {
            is_open: true,
            indent: None,
        };
    }

    /// Whether `line` belongs to it.
    fn has(&mut self, line: &str) -> bool {
        if !self.is_open || line.trim().is_empty() {
            return self.is_open;
        }
        let white = line.chars().take_while(|c| c.is_whitespace());
        let indent = white.map(|c| if c == '\t' { 8 } else { 1 }).sum();
        self.is_open = indent > 0 && indent >= *self.indent.get_or_insert(indent);
        self.is_open
    }
}

/// What keeps `condition` from being true, option by option; of alternatives all.
fn lacking(condition: &str, config: &Config) -> Vec<String> {
    let atoms = condition.split(['&', '|', '(', ')']).map(str::trim);
    // What is compared, what the compiler is asked, and constants are no options that are set or not.
    let is_option = |name: &str| {
        let is_word = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        !name.is_empty() && name.chars().all(is_word)
    };
    let mut lacks = Vec::new();
    for atom in atoms {
        let (name, is_wanted) = match atom.strip_prefix('!') {
            Some(name) => (name.trim(), false),
            None => (atom, true),
        };
        let is_set = config.value(name).is_some_and(|value| value != "n");
        match (is_wanted, is_set) {
            _ if !is_option(name) => {}
            (true, false) => lacks.push(format!("{name} is not set")),
            (false, true) => lacks.push(format!("{name} is set")),
            _ => {}
        }
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
config ARM_SDE_INTERFACE
	bool "ARM Software Delegated Exception Interface (SDEI)"
	depends on ARM64
	depends on !CPU_BIG_ENDIAN || \
		   EXPERT
	help
	  The Software Delegated Exception Interface.

	  What a firmware has of it
	  depends on luck, and
	  if it has none
	    config options do not help.

menu "Tests"
	depends on DEBUG_KERNEL

if RUNTIME_TESTING_MENU

config LKDTM
	tristate "Linux Kernel Dump Test Tool Module" # a comment
	depends on DEBUG_FS
	help
	if nobody needs it, say N
	depends on nothing else

endif

config OUTSIDE
	bool "outside"
	depends on ARM64
endmenu

config FREE
	bool

config TWICE
	bool
	depends on A && B
config TWICE
	depends on ARM64 && GONE
config COMPARED
	depends on PAGE_SIZE = 4 && $(cc-option,-mx=Y) && CC_IS_GCC
"#;

    fn explain(line: &str, config: &str) -> String {
        let mut kconfig = Kconfig::default();
        kconfig.read(TEXT);
        kconfig.explain(line, &Config::parse(config))
    }

    #[test]
    fn what_an_option_lacks_is_named() {
        assert_eq!(
            explain(
                "CONFIG_LKDTM=y",
                "CONFIG_DEBUG_KERNEL=y\nCONFIG_DEBUG_FS=y\n"
            ),
            "it needs DEBUG_KERNEL && RUNTIME_TESTING_MENU && DEBUG_FS; RUNTIME_TESTING_MENU is not set"
        );
        assert_eq!(
            explain("CONFIG_OUTSIDE=y", "CONFIG_ARM64=y\n"),
            "it needs DEBUG_KERNEL && ARM64; DEBUG_KERNEL is not set"
        );
        assert!(
            explain(
                "CONFIG_ARM_SDE_INTERFACE=y",
                "CONFIG_ARM64=y\nCONFIG_CPU_BIG_ENDIAN=y\n"
            )
            .ends_with("; CPU_BIG_ENDIAN is set, EXPERT is not set")
        );
    }

    #[test]
    fn an_option_that_is_nowhere_is_said_to_be_none() {
        assert_eq!(
            explain("CONFIG_ARM_SDEI_NMI=y", ""),
            "this Linux has no such option"
        );
    }

    #[test]
    fn of_several_definitions_the_nearest_is_told() {
        assert_eq!(
            explain("CONFIG_TWICE=y", "CONFIG_ARM64=y\n"),
            "it needs ARM64 && GONE; GONE is not set"
        );
    }

    #[test]
    fn what_lacks_nothing_is_decided_elsewhere() {
        assert_eq!(
            explain("CONFIG_FREE=y", ""),
            "other options decide it: it is not set"
        );
        assert_eq!(
            explain(
                "CONFIG_COMPARED=y",
                "CONFIG_CC_IS_GCC=y\nCONFIG_COMPARED=m\n"
            ),
            "other options decide it: it is m"
        );
    }
}
