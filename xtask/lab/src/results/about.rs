//! Who found what is reported, with what, and when.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use debian::paths;
use debian::tools;
use machine::board::Board;
use machine::el3::El3;

/// The version of what docs/report.md describes. It grows when something is taken away or changes its meaning.
pub const SCHEMA: u32 = 1;

/// What a report says of itself. What is not known is null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct About {
    /// Our version.
    pub version: String,
    /// The commit that was built, with `-dirty` if files of it were changed.
    pub git: Option<String>,
    /// QEMU's version.
    pub qemu: Option<String>,
    /// The machine; unknown of results from several.
    pub machine: Option<&'static str>,
    /// What runs at EL3; unknown of results from several machines.
    pub el3: Option<&'static str>,
    /// When it began, in UTC.
    pub date: String,
}

impl About {
    /// Of now, on that machine.
    pub fn now(board: Board, el3: El3) -> Self {
        let qemu = tools::find(tools::QEMU.program);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            git: commit(),
            qemu: qemu.and_then(|path| tools::demand_version(&path).ok()),
            machine: Some(board.name()),
            el3: Some(el3.name()),
            date: date(since.map_or(0, |since| since.as_secs())),
        }
    }

    /// Of now, on several machines.
    pub fn now_on_several() -> Self {
        Self {
            machine: None,
            el3: None,
            ..Self::now(Board::default(), El3::default())
        }
    }

    /// The same as names and values, without what is not known.
    pub fn named(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("halligan", Some(self.version.as_str())),
            ("git", self.git.as_deref()),
            ("qemu", self.qemu.as_deref()),
            ("machine", self.machine),
            ("el3", self.el3),
            ("date", Some(self.date.as_str())),
        ];
        let known = all.into_iter();
        known
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

/// Our version and commit, as `--version` tells them.
pub fn version() -> String {
    let own = env!("CARGO_PKG_VERSION");
    match commit() {
        Some(commit) => format!("{own} ({commit})"),
        None => own.to_owned(),
    }
}

/// The commit of the sources that we are built from, if git knows.
fn commit() -> Option<String> {
    let output = supervisor::command("git")
        .arg("-C")
        .arg(paths::root())
        .args([
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let commit = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Some(commit).filter(|commit| !commit.is_empty())
}

/// Seconds since 1970 as RFC 3339 has them.
fn date(seconds: u64) -> String {
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    loop {
        let length = 365 + u64::from(is_leap(year));
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let day = days + 1;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_that_of_the_calendar() {
        for (seconds, said) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(seconds), said);
        }
    }

    #[test]
    fn what_is_not_known_is_null_and_has_no_name() {
        let about = About {
            git: None,
            qemu: None,
            ..About::now(Board::VirtGicv2, El3::TfaNosdei)
        };
        let json = serde_json::to_value(&about).unwrap();
        assert!(json["git"].is_null() && json["qemu"].is_null());
        assert_eq!(json["machine"], "virt-gicv2");
        assert_eq!(json["el3"], "tfa-nosdei");
        assert!(about.named().iter().all(|(name, _)| *name != "git"));
    }
}
