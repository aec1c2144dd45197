//! Debian's version numbers, as far as xtask needs to read them.

/// The upstream part: no epoch, no Debian revision, no repackaging mark.
/// `1:10.0.2+ds-2+deb13u1~bpo12+1` is `10.0.2`, `7.3.4-1~bpo13+1` is `7.3.4`.
pub fn upstream(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let end = version.find(['-', '+', '~']).unwrap_or(version.len());
    &version[..end]
}

/// Whether the dotted number `version` is `least` or later. What does not
/// start with a number counts as 0.
pub fn at_least(version: &str, least: &[u32]) -> bool {
    let mut numbers = version.split('.').map(|part| {
        let digits = part
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(part.len());
        part[..digits].parse::<u32>().unwrap_or(0)
    });
    for wanted in least {
        match numbers.next().unwrap_or(0).cmp(wanted) {
            std::cmp::Ordering::Less => return false,
            std::cmp::Ordering::Greater => return true,
            std::cmp::Ordering::Equal => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_part_is_found_in_all_of_debians_forms() {
        for (version, expected) in [
            ("1:10.0.2+ds-2+deb13u1~bpo12+1", "10.0.2"),
            ("7.3.4-1~bpo13+1", "7.3.4"),
            ("1.95.0+dfsg1-2~bpo13+1", "1.95.0"),
            ("7.4~rc2-1~exp1", "7.4"),
            ("2026", "2026"),
        ] {
            assert_eq!(upstream(version), expected);
        }
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(at_least("7.3.4", &[7, 3]));
        assert!(at_least("7.10", &[7, 3]));
        assert!(at_least("8", &[7, 3]));
        assert!(at_least("7.3", &[7, 3, 0]));
        assert!(!at_least("7.2.13", &[7, 3]));
        assert!(!at_least("7", &[7, 3]));
        assert!(!at_least("", &[7, 2]));
    }
}
