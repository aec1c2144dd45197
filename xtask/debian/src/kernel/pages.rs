//! How large a kernel's pages are: a choice of arm64's, which our fragment makes for a tree that says nothing.

use super::FRAGMENT;
use super::config::Config;

/// A size of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB.
    Kib4,
    /// 16 KiB.
    Kib16,
    /// 64 KiB.
    Kib64,
}

impl Pages {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kib4, Self::Kib16, Self::Kib64];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kib4 => "4k",
            Self::Kib16 => "16k",
            Self::Kib64 => "64k",
        }
    }

    /// The size of that name.
    ///
    /// # Errors
    ///
    /// If there is none, with all that there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|pages| pages.name() == name);
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("arm64 has no pages of that size; it has {known}")
        })
    }

    /// Its option, without CONFIG_.
    const fn option(self) -> &'static str {
        match self {
            Self::Kib4 => "ARM64_4K_PAGES",
            Self::Kib16 => "ARM64_16K_PAGES",
            Self::Kib64 => "ARM64_64K_PAGES",
        }
    }

    /// What a configuration chooses, if it does.
    pub fn of(config: &Config) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|pages| config.is_built_in(pages.option()))
    }

    /// Our fragment for a kernel with such pages.
    pub fn fragment(self) -> String {
        let lines = FRAGMENT.lines().map(|line| match line.split_once('=') {
            Some((name, _)) if name.strip_prefix("CONFIG_") == Some(Self::Kib4.option()) => {
                self.lines()
            }
            _ => line.to_owned(),
        });
        lines.map(|line| line + "\n").collect()
    }

    /// The lines that choose it, whatever was chosen before.
    fn lines(self) -> String {
        let line = |pages: Self| match pages == self {
            true => format!("CONFIG_{}=y", pages.option()),
            false => format!("# CONFIG_{} is not set", pages.option()),
        };
        Self::ALL.map(line).join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::merge;
    use super::*;

    #[test]
    fn each_size_is_known_by_its_name() {
        for pages in Pages::ALL {
            assert_eq!(Pages::named(pages.name()), Ok(pages));
        }
        let error = Pages::named("8k").unwrap_err();
        assert!(error.ends_with("4k, 16k, 64k"), "{error}");
    }

    #[test]
    fn a_fragment_chooses_its_size_and_no_other() {
        for pages in Pages::ALL {
            let fragment = pages.fragment();
            assert_eq!(Pages::of(&Config::parse(&fragment)), Some(pages));
            for before in Pages::ALL {
                let base = format!("CONFIG_{}=y\n", before.option());
                let merged = Config::parse(&merge(&base, &fragment));
                assert_eq!(Pages::of(&merged), Some(pages));
                let chosen = Pages::ALL.into_iter();
                let chosen = chosen.filter(|other| merged.is_built_in(other.option()));
                assert_eq!(chosen.count(), 1);
            }
            let others = |text: &str| {
                text.lines()
                    .filter(|line| !line.contains("K_PAGES"))
                    .count()
            };
            assert_eq!(others(&fragment), others(FRAGMENT));
        }
        assert_eq!(Pages::of(&Config::parse("CONFIG_64BIT=y\n")), None);
    }
}
