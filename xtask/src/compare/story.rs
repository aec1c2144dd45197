//! What a guest says, without what is another each time: times, addresses and numbers.

use std::collections::BTreeSet;

use lab::document::Document;
use serde::Serialize;

/// Lines that one of two guests says and the other does not, as it says them.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Differences {
    /// In each run of A, and in none of B.
    pub only_a: Vec<String>,
    /// In each run of B, and in none of A.
    pub only_b: Vec<String>,
}

/// What is different; nothing if one of them has kept no lines.
pub fn differences(a: &Document, b: &Document) -> Option<Differences> {
    let (a, b) = (runs(a)?, runs(b)?);
    Some(Differences {
        only_a: only(&a, &b),
        only_b: only(&b, &a),
    })
}

/// The lines of each run.
fn runs(document: &Document) -> Option<Vec<&[String]>> {
    let runs = document.runs.iter();
    runs.map(|run| run.lines.as_deref()).collect()
}

/// The lines that all of `one` have, and none of `other`, by the first run of `one`.
fn only(one: &[&[String]], other: &[&[String]]) -> Vec<String> {
    let normal_lines = |lines: &[String]| lines.iter().map(|line| normal(line)).collect();
    let own: Vec<BTreeSet<String>> = one.iter().map(|lines| normal_lines(lines)).collect();
    let others: Vec<BTreeSet<String>> = other.iter().map(|lines| normal_lines(lines)).collect();
    let mut told = BTreeSet::new();
    let first = one.first().copied().unwrap_or_default().iter();
    let differing = first.filter(|line| {
        let line = normal(line);
        own.iter().all(|lines| lines.contains(&line))
            && !others.iter().any(|lines| lines.contains(&line))
            && told.insert(line)
    });
    differing.cloned().collect()
}

/// A line without the time that it begins with, and with `#` for an address and `N` for a number, or several that are joined.
pub fn normal(line: &str) -> String {
    let line = line.trim();
    let mut rest = match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((time, rest)) if is_time(time) => rest.trim_start(),
        _ => line,
    };
    let mut normal = String::new();
    while let Some(first) = rest.chars().next() {
        let is_inside = normal.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let length = match is_inside {
            true => 0,
            false => address(rest).max(numbers(rest)),
        };
        if length == 0 {
            normal.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
            continue;
        }
        normal.push(if address(rest) == length && numbers(rest) != length {
            '#'
        } else {
            'N'
        });
        rest = rest.get(length..).unwrap_or_default();
    }
    normal
}

fn is_time(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// How many bytes of `text` are an address: `0x` and digits, or 8 hexadecimal digits and more.
fn address(text: &str) -> usize {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_hexdigit).count();
    match text.strip_prefix("0x").map(digits) {
        Some(length) if length > 0 => 2 + length,
        _ => Some(digits(text))
            .filter(|&length| length >= 8)
            .unwrap_or(0),
    }
}

/// How many bytes of `text` are numbers, such as `7.3.4` or `1,3-5`.
fn numbers(text: &str) -> usize {
    let mut length = 0;
    loop {
        let rest = text.get(length..).unwrap_or_default();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            // What joins them is part of them only if another follows.
            return length.saturating_sub(usize::from(length > 0));
        }
        length += digits;
        match text.as_bytes().get(length) {
            Some(b'.' | b',' | b'-') => length += 1,
            _ => return length,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_addresses_and_numbers_do_not_count() {
        for (line, is) in [
            (
                "[    7.503374] SMP: retry stop with SDEI NMI for CPUs 2",
                "SMP: retry stop with SDEI NMI for CPUs N",
            ),
            (
                "[12.5] SMP: retry stop with SDEI NMI for CPUs 1,3-5.",
                "SMP: retry stop with SDEI NMI for CPUs N.",
            ),
            (
                "LAB: up kernel=7.3.4 cpus=4 sdei=yes",
                "LAB: up kernel=N cpus=N sdei=yes",
            ),
            (
                "sdei: SDEIv1.1 (0x484c474e) detected",
                "sdei: SDEIv1.N (#) detected",
            ),
            (
                "SError Interrupt on CPU0, code 0x00000000bf484c47 -- SError",
                "SError Interrupt on CPU0, code # -- SError",
            ),
            ("pc : 00000000deadbeef", "pc : #"),
            ("pc : ffff800080010000", "pc : #"),
            ("bytes=29135092", "bytes=N"),
            ("lkdtm_HARDLOCKUP+0x4/0x10", "lkdtm_HARDLOCKUP+#/#"),
            ("el0t_64_sync+0x1a", "el0t_64_sync+#"),
            ("[not a time] 0x", "[not a time] Nx"),
            ("ü 3 ü", "ü N ü"),
            ("", ""),
        ] {
            assert_eq!(normal(line), is, "{line}");
        }
    }

    #[test]
    fn a_line_counts_that_one_always_says_and_the_other_never() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let (one, two) = (lines("[1.0] a 1\nb\n[1.2] c\nb"), lines("a 2\nb\nd"));
        let other = lines("[9.0] b\ne 7");
        assert_eq!(only(&[&one, &two], &[&other]), ["[1.0] a 1"]);
        assert_eq!(only(&[&one], &[&other]), ["[1.0] a 1", "[1.2] c"]);
        assert_eq!(only(&[&other], &[&one, &two]), ["e 7"]);
        assert!(only(&[&one], &[&one]).is_empty());
    }
}
