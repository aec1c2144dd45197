//! Guest files: TOML with the options of the command line. docs/guest-file.md has an example.

use anyhow::{Result, bail};
use toml::{Table, Value};

use super::Options;

/// A key of a guest file, what it takes, and an example.
type Key = (&'static str, &'static str, &'static str);

/// All of them.
const KEYS: &[Key] = &[
    ("kernel", "a path in quotation marks", "\"Image\""),
    ("initrd", "a path in quotation marks", "\"initrd.gz\""),
    ("dtb-at", "an address", "0x44000000"),
    ("append", "words in quotation marks", "\"quiet loglevel=4\""),
    (
        "cpus",
        "a number of CPUs, or of one of several guests a list of the machine's",
        "4",
    ),
    ("memory", "a size in quotation marks", "\"512M\""),
    ("disks", "a list of paths", "[\"disk.img\"]"),
    (
        "nets",
        "a list of networks, each \"user\", in quotation marks, with hostfwd=... and restrict=on behind commas",
        "[\"user\"]",
    ),
    (
        "cpu",
        "a model of QEMU's in quotation marks",
        "\"cortex-a72\"",
    ),
    ("sdei", "\"on\" or \"off\", in quotation marks", "\"off\""),
    (
        "machine",
        "\"virt\", \"virt-gicv2\" or \"raspi4b\", in quotation marks",
        "\"virt-gicv2\"",
    ),
    (
        "el3",
        "\"none\", \"tfa-nosdei\" or \"tfa\", in quotation marks",
        "\"tfa\"",
    ),
    ("hv-append", "words in quotation marks", "\"crash=reset\""),
    (
        "qemu-args",
        "a list of words in quotation marks",
        "[\"-d\", \"int\"]",
    ),
    ("timeout", "a number of seconds", "60"),
    (
        "firmware",
        "names of docs/firmware.md in quotation marks",
        "\"tfa-2.12\"",
    ),
    (
        "reclaim",
        "\"parked\" or \"off\", in quotation marks",
        "\"parked\"",
    ),
    (
        "events",
        "a list of events, each with a number, a scope (private or shared) and a priority (normal or critical)",
        "[{ number = 256, scope = \"private\", priority = \"critical\" }]",
    ),
    ("debug-calls", "true or false", "true"),
    ("flash", "a size or a path in quotation marks", "\"64M\""),
    ("pvpanic", "true or false", "true"),
    (
        "sbsa-gwdt",
        "\"report\", \"nmi\", \"freeze\", \"reset\", \"off\" or \"dump\", in quotation marks",
        "\"reset\"",
    ),
    ("name", "a name in quotation marks", "\"kdump\""),
    (
        "affinity",
        "\"own\" or \"machine\", in quotation marks",
        "\"machine\"",
    ),
    (
        "devices",
        "a list of devices in quotation marks",
        "[\"rtc\", \"virtio:0\"]",
    ),
    ("trusted", "true or false", "true"),
    (
        "guest",
        "a table for each guest",
        "[{ name = \"one\", cpus = [0, 1] }, { name = \"two\" }]",
    ),
    (
        "start",
        "\"boot\" or \"manual\", in quotation marks",
        "\"manual\"",
    ),
    ("on-off", THEN, "\"restart\""),
    ("on-reset", THEN, "\"stop\""),
    ("on-crash", THEN, "\"restart\""),
    (
        "nmi",
        "an event of events, a limit from 10ms to 86400s, and what is done last, report, freeze or dump",
        "{ event = 256, limit = \"5s\", last = \"freeze\" }",
    ),
    (
        "dump",
        "a size of memory to hold back and, if need be, a kernel, an initrd and words to append",
        "{ memory = \"192M\" }",
    ),
    (
        "crashkernel",
        "a size and an address in quotation marks, both multiples of 2 MiB",
        "\"256M@0x60000000\"",
    ),
    (
        "watchdog",
        "a limit from 10ms to 86400s and, for one vCPU and for all, report, nmi, freeze, reset, off or dump",
        "{ limit = \"10s\", one = \"report\", all = \"nmi\" }",
    ),
    (
        "operator",
        "\"full\", \"read\" or \"off\", in quotation marks",
        "\"read\"",
    ),
    ("log", "a path in quotation marks", "\"serial.log\""),
];

/// What becomes of a guest.
const THEN: &str = "\"stop\", \"restart\", \"machine-off\" or \"dump\", in quotation marks";

/// The options that `text` says; of what it says wrong, the first key with its line and how it is written.
pub fn parse(text: &str) -> Result<Options> {
    let error = match toml::from_str::<Options>(text) {
        Ok(options) => return Ok(options),
        Err(error) => error,
    };
    let Ok(table) = text.parse::<Table>() else {
        let at = error.span().map_or(0, |span| span.start);
        let before = text.get(..at).unwrap_or(text);
        let line = 1 + before.matches('\n').count();
        let why = error.message();
        bail!("line {line} is no TOML: {why}; docs/guest-file.md has an example");
    };
    let mut wrong = complaints(text, &table);
    wrong.sort();
    match wrong.into_iter().next() {
        Some((line, what)) => bail!("line {line}: {what}"),
        None => bail!("{}; docs/guest-file.md has an example", error.message()),
    }
}

/// What is wrong, each with its line.
fn complaints(text: &str, table: &Table) -> Vec<(usize, String)> {
    let mut wrong = Vec::new();
    for (key, value) in table {
        let guests = value.as_array().filter(|_| key == GUEST);
        let guests = guests.filter(|guests| guests.iter().all(Value::is_table));
        let Some(guests) = guests else {
            wrong.extend(complaint(key, value).map(|what| (line_of(text, key), what)));
            continue;
        };
        // Each below its own heading.
        let headings = text.match_indices("[[guest]]").map(|(at, _)| at);
        let headings: Vec<usize> = headings.collect();
        for (number, guest) in guests.iter().filter_map(Value::as_table).enumerate() {
            let start = headings.get(number).copied().unwrap_or(0);
            let before = text[..start].matches('\n').count();
            let own = complaints(&text[start..], guest);
            wrong.extend(own.into_iter().map(|(line, what)| (before + line, what)));
        }
    }
    wrong
}

/// The key of the tables of several guests.
const GUEST: &str = "guest";

/// What is wrong with `key = value`, if something is.
fn complaint(key: &str, value: &Value) -> Option<String> {
    let Some((_, takes, example)) = KEYS.iter().find(|(known, ..)| *known == key) else {
        let known: Vec<&str> = KEYS.iter().map(|(known, ..)| *known).collect();
        return Some(format!(
            "there is no key `{key}`; there are {}",
            known.join(", ")
        ));
    };
    let alone = Table::from_iter([(key.to_owned(), value.clone())]);
    if alone.try_into::<Options>().is_ok() {
        return None;
    }
    let value = value.to_string();
    Some(format!(
        "{key} is {takes}, such as `{key} = {example}`, and not `{}`",
        value.trim()
    ))
}

/// Where `key` is given a value.
fn line_of(text: &str, key: &str) -> usize {
    let is_there = |line: &str| {
        let line = line.trim_start().trim_start_matches(['[', '"', '\'']);
        line.strip_prefix(key).is_some_and(|rest| {
            let rest = rest.trim_start_matches(['"', '\'']).trim_start();
            rest.starts_with(['=', ']', '.'])
        })
    };
    1 + text.lines().position(is_there).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn every_key_that_there_is_has_an_example_that_is_read() {
        for (key, _, example) in KEYS {
            parse(&format!("{key} = {example}\n")).unwrap();
        }
        let error = toml::from_str::<Options>("cors = 2").unwrap_err();
        let message = error.message();
        let expected = message.matches('`').count() / 2 - 1;
        assert_eq!(expected, KEYS.len(), "{message}");
    }

    #[test]
    fn the_page_has_every_key_and_an_example_that_is_read() {
        let page = include_str!("../../../../docs/guest-file.md");
        for (key, ..) in KEYS {
            assert!(page.contains(&format!("| `{key}` |")), "{key}");
        }
        let mut examples = page.split("```toml\n").skip(1);
        let example = examples.next().unwrap().split("```").next().unwrap();
        parse(example).unwrap();
    }

    #[test]
    fn a_value_of_another_kind_is_named_with_what_it_is_to_be() {
        assert_eq!(
            refused("sdei = false\n"),
            "line 1: sdei is \"on\" or \"off\", in quotation marks, such as `sdei = \"off\"`, and not `false`"
        );
        assert_eq!(
            refused("cpus = 2\n\nmemory = 256\n"),
            "line 3: memory is a size in quotation marks, such as `memory = \"512M\"`, and not `256`"
        );
        for wrong in [
            "kernel = 1",
            "disks = \"a.img\"",
            "nets = \"user\"",
            "nets = [\"tap\"]",
            "el3 = true",
            "machine = \"vrit\"",
            "cpus = \"many\"",
            "cpus = -1",
            "timeout = 1.5",
            "reclaim = \"yes\"",
            "debug-calls = \"yes\"",
            "events = [{ number = 1 }]",
            "start = \"never\"",
            "on-off = true",
            "on-crash = \"report\"",
            "nmi = 256",
            "nmi = { limit = \"5\" }",
            "nmi = { last = \"reset\" }",
            "dump = true",
            "crashkernel = 256",
            "crashkernel = \"256M\"",
            "crashkernel = \"1M@0x60000000\"",
            "crashkernel = \"0@0x60000000\"",
            "dump = {}",
            "dump = { memory = \"lots\" }",
            "dump = { memory = \"192M\", on = \"reset\" }",
            "watchdog = true",
            "watchdog = { one = \"report\" }",
            "sbsa-gwdt = true",
            "sbsa-gwdt = \"bark\"",
            "watchdog = { limit = \"10\" }",
            "watchdog = { limit = \"9ms\" }",
            "watchdog = { limit = \"2d\" }",
            "watchdog = { limit = \"+10s\" }",
            "watchdog = { limit = \"10s\", all = \"bark\" }",
            "watchdog = { limit = \"10s\", some = \"nmi\" }",
            "events = [{ number = 1, scope = \"private\", priority = \"high\" }]",
        ] {
            let key = wrong.split(' ').next().unwrap();
            let error = refused(&format!("# first\n{wrong}\n"));
            assert!(error.starts_with(&format!("line 2: {key} is ")), "{error}");
        }
    }

    #[test]
    fn the_first_of_several_and_tables_are_found() {
        let error = refused("timeout = 5\n  \"sdei\" = 1\ncpus = false\n");
        assert!(error.starts_with("line 2: sdei is "), "{error}");
        let error = refused("cpus = 1\n[[events]]\nnumber = 1\n");
        assert!(
            error.starts_with("line 2: events is a list of events"),
            "{error}"
        );
        let error = refused("[gust]\nkernel = \"a\"\n");
        assert!(
            error.starts_with("line 1: there is no key `gust`; there are kernel, "),
            "{error}"
        );
        let error = refused("[guest]\nkernel = \"a\"\n");
        assert!(
            error.starts_with("line 1: guest is a table for each"),
            "{error}"
        );
        let several = "cpus = 4\n[[guest]]\nname = \"a\"\n\n[[guest]]\nname = \"b\"\nsdei = true\n";
        let error = refused(several);
        assert!(error.starts_with("line 7: sdei is \"on\" or"), "{error}");
        let error = refused(&several.replace("sdei = true", "colour = 1"));
        assert!(
            error.starts_with("line 7: there is no key `colour`"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_toml_is_said_to_be_none() {
        let error = refused("cpus = 4\ncpus 4\n");
        assert!(error.starts_with("line 2 is no TOML: "), "{error}");
        assert!(
            error.ends_with("docs/guest-file.md has an example"),
            "{error}"
        );
        let error = refused("cpus = 4\ncpus = 4\n");
        assert!(error.starts_with("line 2 is no TOML: duplicate"), "{error}");
    }
}
