//! What apt prints, read.

/// The machine's Debian mirror.
#[derive(Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where the archive is.
    pub uri: String,
    /// Where the security archive is, if apt knows one.
    pub security: Option<String>,
    /// Name of the machine's release, e.g. `bookworm`.
    pub release: String,
}

/// A version of a package that a suite offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Name, e.g. `linux-source-7.3`.
    pub package: String,
    /// Debian's version, e.g. `7.3.4-1~bpo13+1`.
    pub version: String,
}

/// The file of a package in the archive.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    /// File name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal, 64 digits.
    pub sha256: String,
}

impl Mirror {
    /// Chooses from `apt-get indextargets` (URI, label, origin and code name
    /// between bars); `None` if Debian is not among them.
    pub fn from_targets(targets: &str) -> Option<Self> {
        let rows: Vec<Vec<&str>> = targets
            .lines()
            .map(|line| line.split('|').collect())
            .filter(|row: &Vec<&str>| row.len() == 4 && row[2] == "Debian")
            .collect();
        let of = |label: &str| rows.iter().find(|row| row[1] == label);
        let main = of("Debian")?;
        Some(Self {
            uri: main[0].to_owned(),
            security: of("Debian-Security").map(|row| row[0].to_owned()),
            release: main[3].to_owned(),
        })
    }

    /// Chooses from `apt-get update --print-uris`, which also answers where no
    /// list was ever fetched (a fresh container), for a system that says it is
    /// Debian's `release`. Whether it is will be told by the signature.
    pub fn from_uris(uris: &str, release: &str) -> Option<Self> {
        let base = |suite: &str| {
            let end = format!("/dists/{suite}/InRelease'");
            uris.lines().find_map(|line| {
                let (uri, _) = line.strip_prefix('\'')?.split_once(&end)?;
                Some(format!("{uri}/"))
            })
        };
        Some(Self {
            uri: base(release)?,
            security: base(&format!("{release}-security")),
            release: release.to_owned(),
        })
    }

    /// The archive that holds `suite`.
    pub fn uri_of(&self, suite: &str) -> Option<&str> {
        if suite.ends_with("-security") {
            self.security.as_deref()
        } else {
            Some(&self.uri)
        }
    }
}

impl Offer {
    /// Reads `apt-cache madison`: package, version and source between bars.
    pub fn parse_all(answer: &str) -> Vec<Self> {
        let mut offers = Vec::new();
        for line in answer.lines() {
            let mut parts = line.split('|').map(str::trim);
            let (Some(package), Some(version), Some(source)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let package = package.split(':').next().unwrap_or(package);
            let offer = Self {
                package: package.to_owned(),
                version: version.to_owned(),
            };
            if source.ends_with("Packages") && !offers.contains(&offer) {
                offers.push(offer);
            }
        }
        offers
    }
}

impl File {
    /// Reads `apt-get download --print-uris`: quoted URI, name, size, hash.
    pub fn parse(answer: &str) -> Option<Self> {
        let line = answer.lines().find(|line| line.starts_with('\''))?;
        Self::of_line(line)
    }

    /// Reads `apt-get source --print-uris`, which names several files, and
    /// answers the one with the upstream source.
    pub fn parse_source(answer: &str) -> Option<Self> {
        let mut files = answer.lines().filter_map(Self::of_line);
        files.find(|file| file.name.contains(".orig.tar."))
    }

    fn of_line(line: &str) -> Option<Self> {
        let mut parts = line.strip_prefix('\'')?.split_whitespace().skip(1);
        let name = parts.next()?.to_owned();
        let bytes = parts.next()?.parse().ok()?;
        let sha256 = parts.next()?.strip_prefix("SHA256:")?.to_owned();
        let plain = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        (plain && !name.contains('/')).then_some(Self {
            name,
            bytes,
            sha256,
        })
    }
}

/// Reads `apt-cache depends`: names after "Depends:" or "PreDepends:", of
/// which those in angle brackets are virtual.
pub fn dependencies(answer: &str) -> Vec<String> {
    let names = answer.lines().filter_map(|line| {
        let line = line.trim_start_matches([' ', '|']);
        let name = line
            .strip_prefix("Depends: ")
            .or_else(|| line.strip_prefix("PreDepends: "))?;
        (!name.starts_with('<')).then(|| name.split(':').next().unwrap_or(name).to_owned())
    });
    names.collect()
}

/// A field of os-release(5).
pub fn field<'a>(os_release: &'a str, name: &str) -> Option<&'a str> {
    os_release.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix('=')?;
        Some(value.trim_matches('"'))
    })
}

/// Whether apt's complaint says that the archive has no such suite.
pub fn is_absent_suite(complaint: &str) -> bool {
    complaint.contains("does not have a Release file")
}

/// Turns apt's complaint into one sentence with the mend.
pub fn explain(complaint: &str) -> String {
    let says = |words: &[&str]| words.iter().any(|word| complaint.contains(word));
    if says(&["No space left on device", "not have enough free space"]) {
        return "the disk is full: make room or set HALLIGAN_CACHE to another disk".to_owned();
    }
    if says(&["does not have a Release file"]) {
        return "the suite does not have a Release file in this archive".to_owned();
    }
    if says(&[
        "Temporary failure resolving",
        "Could not resolve",
        "Could not connect",
        "Cannot initiate the connection",
        "Connection timed out",
        "Connection failed",
        "Connection refused",
        "Network is unreachable",
        "Unable to connect",
    ]) {
        return "no network, or the package mirror of this machine's apt does not answer: mend that and run the command again".to_owned();
    }
    if says(&[
        "NO_PUBKEY",
        "signatures couldn't be verified",
        "is not signed",
    ]) {
        return "the archive's signature does not verify: bring debian-archive-keyring up to date"
            .to_owned();
    }
    if says(&["Hash Sum mismatch"]) {
        return "the mirror sent a file which is not what the archive signed: run the command again, later if it persists".to_owned();
    }
    if says(&["404  Not Found"]) {
        return "the mirror no longer has this version: run `cargo xtask guest-kernel --update`"
            .to_owned();
    }
    let error = complaint.lines().rev().find(|line| line.starts_with("E:"));
    let line = error
        .or_else(|| complaint.lines().last())
        .unwrap_or("failed");
    line.trim_start_matches("E:").trim().to_owned()
}

/// The bytes that `apt-get update` has fetched, which it says in its own units (`Fetched 8,791 kB in 1s`); 0 if it has fetched none.
pub fn fetched(answer: &str) -> u64 {
    let bytes = |line: &str| {
        let mut words = line.strip_prefix("Fetched ")?.split(' ');
        let number: f64 = words.next()?.replace(',', "").parse().ok()?;
        let unit = match words.next()? {
            "B" => 1.0,
            "kB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            _ => return None,
        };
        Some((number * unit) as u64)
    };
    answer.lines().find_map(bytes).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_source_package_the_upstream_tarball_is_taken() {
        let hash = "0".repeat(64);
        let answer = ["x_1-1.dsc", "x_1.orig.tar.xz", "x_1-1.debian.tar.xz"]
            .map(|name| format!("'http://m/{name}' {name} 12 SHA256:{hash}"))
            .join("\n");
        let file = File::parse_source(&answer).unwrap();
        assert_eq!((file.name.as_str(), file.bytes), ("x_1.orig.tar.xz", 12));
        assert_eq!(File::parse_source(""), None);
    }

    #[test]
    fn mirror_is_the_first_entry_of_debian_itself() {
        let targets = "https://other/apt|Other|Other|x\n\
            http://m/debian/|Debian|Debian|bookworm\n\
            http://m/security/|Debian-Security|Debian|bookworm-security\n";
        let mirror = Mirror::from_targets(targets).unwrap();
        assert_eq!(mirror.uri, "http://m/debian/");
        assert_eq!(mirror.release, "bookworm");
        assert_eq!(
            mirror.uri_of("bookworm-security"),
            Some("http://m/security/")
        );
        assert_eq!(mirror.uri_of("sid"), Some("http://m/debian/"));
        assert_eq!(
            Mirror::from_targets("http://a/|Ubuntu|Ubuntu|noble\n"),
            None
        );
    }

    #[test]
    fn mirror_is_found_before_apt_has_fetched_any_list() {
        let uris = "'http://other/dists/x/InRelease' other_x 0 \n\
            'http://m/debian/dists/bookworm/InRelease' m_bookworm 0 \n\
            'http://m/s/dists/bookworm-security/InRelease' m_s 0 \n";
        let mirror = Mirror::from_uris(uris, "bookworm").unwrap();
        assert_eq!(mirror.uri, "http://m/debian/");
        assert_eq!(mirror.security.as_deref(), Some("http://m/s/"));
        assert_eq!(Mirror::from_uris(uris, "trixie"), None);
    }

    #[test]
    fn os_release_fields_lose_their_quotes() {
        let text = "PRETTY_NAME=\"Debian 12\"\nID=debian\nVERSION_ID=\"12\"\n";
        assert_eq!(field(text, "PRETTY_NAME"), Some("Debian 12"));
        assert_eq!(field(text, "ID"), Some("debian"));
        assert_eq!(field(text, "VERSION"), None);
    }

    #[test]
    fn offers_are_read_once_each_and_without_source_entries() {
        let answer = "linux-source-7.3 | 7.3.4-1~bpo13+1 | http://m trixie-backports/main amd64 Packages\n\
            linux-source-7.3 | 7.3.4-1~bpo13+1 | http://m trixie-backports/main arm64 Packages\n\
            busybox-static:arm64 | 1:1.37.0-6+b9 | http://m trixie/main arm64 Packages\n\
            linux | 7.3.4-1 | http://m sid/main Sources\n";
        let offers = Offer::parse_all(answer);
        assert_eq!(offers.len(), 2);
        assert_eq!(offers[0].version, "7.3.4-1~bpo13+1");
        assert_eq!(offers[1].package, "busybox-static");
    }

    #[test]
    fn file_needs_a_full_hash_and_a_plain_name() {
        let hash = "a".repeat(64);
        let answer = format!("'http://m/x_1%7e2_all.deb' x_1~2_all.deb 166780612 SHA256:{hash}\n");
        let file = File::parse(&answer).unwrap();
        assert_eq!(
            (file.name.as_str(), file.bytes),
            ("x_1~2_all.deb", 166_780_612)
        );
        assert_eq!(File::parse(&answer.replace("SHA256:", "MD5Sum:")), None);
        assert_eq!(File::parse(&answer.replace(" x_", " ../x_")), None);
        assert_eq!(File::parse(""), None);
    }

    #[test]
    fn dependencies_keep_alternatives_and_leave_virtual_packages() {
        let answer = "kexec-tools\n  Depends: libc6\n |Depends: debconf\n  \
            Depends: <debconf-2.0>\n    cdebconf\n  PreDepends: libx:arm64\n  Suggests: y\n";
        assert_eq!(dependencies(answer), ["libc6", "debconf", "libx"]);
    }

    #[test]
    fn what_was_fetched_is_read_in_every_unit() {
        let said = |amount: &str| {
            fetched(&format!(
                "Get:1 x\nFetched {amount} in 1s (9 kB/s)\nReading package lists..."
            ))
        };
        let all = ["418 kB", "8,791 kB", "45.1 MB", "512 B", "1 furlong"].map(said);
        assert_eq!(all, [418_000, 8_791_000, 45_100_000, 512, 0]);
        assert_eq!(fetched("Hit:1 x\nReading package lists..."), 0);
    }

    #[test]
    fn complaints_name_the_mend() {
        for (complaint, word) in [
            (
                "W: Failed to fetch http://m/x  Temporary failure resolving 'm'",
                "network",
            ),
            ("E: write, No space left on device", "HALLIGAN_CACHE"),
            ("W: GPG error: NO_PUBKEY 1234", "debian-archive-keyring"),
            (
                "E: Failed to fetch http://m/x  404  Not Found [IP: 1]",
                "--update",
            ),
            ("N: hint\nE: Something else", "Something else"),
        ] {
            assert!(explain(complaint).contains(word), "{complaint}");
        }
        assert!(is_absent_suite(&explain(
            "E: The repository 'http://m forky-backports Release' does not have a Release file."
        )));
    }
}
