//! A kernel out of the user's own source tree: configured with what our jobs need, built outside the tree, which stays as it is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::config::Config;
use super::flags::Flags;
use super::kbuild::{Build, FRAGMENT_NAME, absent};
use super::kconfig::Kconfig;
use super::kunit;
use super::pages::Pages;
use super::source::unpack_into;
use super::{Kernel, SPACE};
use crate::cache::{Cache, Lock, fingerprint, unwritable};
use crate::progress::Progress;
use crate::tools;

/// What a tree is configured from, before our fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing: all that can be left out is, which makes the smallest kernel.
    Nothing,
    /// This configuration.
    File(PathBuf),
    /// One of the tree's own, such as `defconfig`.
    Named(String),
}

/// A source tree, and how it is to be built.
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    base: Base,
    pages: Option<Pages>,
    flags: Flags,
}

/// A tree that is configured.
pub struct Configured {
    /// What came of it.
    pub config: Config,
    /// Where that stands.
    pub place: PathBuf,
    build: Build,
    objects: PathBuf,
    _lock: Lock,
}

impl Tree {
    /// The tree at `path`, whose kernel is to have such pages; if that is not said, those that its base chooses, or of 4 KiB.
    ///
    /// # Errors
    ///
    /// If it is none, or one that kbuild builds nowhere but in itself.
    pub fn open(path: &Path, base: Base, pages: Option<Pages>, flags: Flags) -> Result<Self> {
        let named = || format!("cannot open the tree {}", path.display());
        let path = path.canonicalize().with_context(named)?;
        for part in ["Makefile", "Kbuild", "arch/arm64/Kconfig"] {
            ensure!(
                path.join(part).is_file(),
                "{} is no source tree of Linux: it has no {part}",
                path.display()
            );
        }
        check_clean(&path)?;
        let base = match base {
            Base::File(file) => {
                // What is no configuration is said before anything is made of it.
                Config::read(&file)?;
                Base::File(file)
            }
            Base::Named(name) => {
                check_named(&path, &name)?;
                Base::Named(name)
            }
            Base::Nothing => Base::Nothing,
        };
        flags.check()?;
        Ok(Self {
            path,
            base,
            pages,
            flags,
        })
    }

    /// Where its objects are, one folder a tree, and one more for each size of pages that is asked for.
    fn objects(&self, cache: &Cache) -> Result<PathBuf> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let key = fingerprint(&[&self.path.to_string_lossy()]);
        let pages = self.pages.map(|pages| format!("-{}", pages.name()));
        cache.dir(&format!("trees/{name}-{key}{}", pages.unwrap_or_default()))
    }

    /// Configures it with our fragment over its base. What does not take is said, with what it needs.
    pub fn configure(&self, cache: &Cache, progress: &Progress) -> Result<Configured> {
        let mut wanted = tools::kernel_tools();
        if !self.flags.is_usual() {
            wanted.retain(|tool| *tool != tools::cross_gcc());
        }
        tools::demand(cache, &wanted, progress)?;
        let objects = self.objects(cache)?;
        let name = objects.file_name().unwrap_or_default().to_string_lossy();
        let lock = cache.lock(&format!("tree-{name}"), progress)?;
        if !objects.join("vmlinux").is_file() {
            cache.demand_space(SPACE, "building that tree")?;
        }
        let step = progress.step(format!("configure {}", self.path.display()));
        let build = Build {
            source: self.path.clone(),
            objects: objects.clone(),
            flags: self.flags.clone(),
        };
        // Beside the one that was built, so that what does not change is not built again.
        let next = objects.join(".config.next");
        let fragment = match &self.base {
            Base::Nothing => {
                let fragment = self.fragment("");
                build.configure(&next, &["allnoconfig"], Some(&fragment))?;
                fragment
            }
            Base::File(file) => {
                let text = fs::read_to_string(file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                self.fragment_over(&text, &next, &build)?
            }
            Base::Named(named) => {
                build.configure(&next, &[named], None)?;
                let text = fs::read_to_string(&next).context("make wrote no configuration")?;
                self.fragment_over(&text, &next, &build)?
            }
        };
        let text = fs::read_to_string(&next).context("make wrote no configuration")?;
        step.done();
        let config = Config::parse(&text);
        for line in self.untaken(&fragment, &text, &config) {
            progress.say(&line);
        }
        let place = objects.join(".config");
        if fs::read_to_string(&place).ok().as_deref() != Some(&text) {
            write(&place, &text)?;
        }
        Ok(Configured {
            config,
            place,
            build,
            objects,
            _lock: lock,
        })
    }

    /// Our fragment over the configuration `base`.
    fn fragment(&self, base: &str) -> String {
        let own = || Pages::of(&Config::parse(base));
        let pages = self.pages.or_else(own).unwrap_or(Pages::Kib4);
        pages.fragment()
    }

    /// Makes the configuration `next` of `base` and our fragment, which it answers.
    fn fragment_over(&self, base: &str, next: &Path, build: &Build) -> Result<String> {
        let fragment = self.fragment(base);
        write(next, &merge(base, &fragment))?;
        build.configure(next, &["olddefconfig"], None)?;
        Ok(fragment)
    }

    /// The fragment's lines that the configuration `text` lacks, each with the reason.
    fn untaken(&self, fragment: &str, text: &str, config: &Config) -> Vec<String> {
        let absent = absent(fragment, text);
        if absent.is_empty() {
            return Vec::new();
        }
        let kconfig = Kconfig::of_tree(&self.path);
        let said = absent.into_iter().map(|line| {
            format!(
                "{line} of {FRAGMENT_NAME} did not take: {}",
                kconfig.explain(line, config)
            )
        });
        said.collect()
    }
}

impl Configured {
    /// Builds it; what has not changed since the last time is not built again.
    pub fn build(self, progress: &Progress) -> Result<Kernel> {
        self.build.make("build that tree", None, progress)?;
        let file = |path: &str| self.objects.join(path);
        let release = file("include/config/kernel.release");
        let release = fs::read_to_string(&release)
            .with_context(|| format!("the build left no {}", release.display()))?;
        let kernel = Kernel {
            image: file("arch/arm64/boot/Image"),
            vmlinux: file("vmlinux"),
            release: release.trim().to_owned(),
        };
        for path in [&kernel.image, &kernel.vmlinux] {
            ensure!(path.is_file(), "the build left no {}", path.display());
        }
        Ok(kernel)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| unwritable(path, &error))
}

/// Debian's source of Linux, unpacked anew for a user who wants a tree of that name; nothing if the cache has no source package.
pub fn unpacked(cache: &Cache, user: &str, progress: &Progress) -> Result<Option<PathBuf>> {
    let Some(package) = kunit::package(&cache.path().join("packages")) else {
        return Ok(None);
    };
    let name = format!("{user}-{}", fingerprint(&[&package.to_string_lossy()]));
    let _lock = cache.lock("tree-of-debian", progress)?;
    let entry = cache.dir("trees")?.join(&name);
    cache.entry(&format!("trees/{name}"), |dir| {
        unpack_into(&package, dir, progress)
    })?;
    Ok(Some(entry))
}

/// That nothing was built in the tree: kbuild then builds nowhere else (Linux, Makefile, `outputmakefile`).
fn check_clean(path: &Path) -> Result<()> {
    let built = [".config", "include/config", "arch/arm64/include/generated"];
    let Some(left) = built.iter().find(|left| path.join(left).exists()) else {
        return Ok(());
    };
    let tree = path.display();
    let is_git = path.join(".git").exists();
    let other = match is_git {
        true => format!(
            "; or leave it alone and give a second tree of the same history: git -C {tree} worktree add {tree}-clean, --tree {tree}-clean"
        ),
        false => String::new(),
    };
    bail!(
        "the tree {tree} was built in place ({left} is there), and Linux's build system then builds nowhere else; keep its configuration and clean it: cp {tree}/.config {tree}.config && make -C {tree} ARCH=arm64 mrproper, then add --config {tree}.config{other}"
    )
}

/// That the tree has a configuration of that name: a file of arch/arm64/configs, or a target of kbuild's.
fn check_named(path: &Path, name: &str) -> Result<()> {
    const TARGETS: [&str; 5] = [
        "defconfig",
        "allnoconfig",
        "allmodconfig",
        "allyesconfig",
        "tinyconfig",
    ];
    let folders = ["arch/arm64/configs", "kernel/configs"];
    let is_plain = name.ends_with("config") && !name.contains('/');
    let is_there = TARGETS.contains(&name)
        || folders
            .iter()
            .any(|folder| path.join(folder).join(name).is_file());
    ensure!(
        is_plain && is_there,
        "the tree {} has no configuration {name}; --defconfig is the name of a file in its arch/arm64/configs, or one of {}; a file elsewhere is --config FILE",
        path.display(),
        TARGETS.join(", ")
    );
    Ok(())
}

/// `base` with what `fragment` says in place of what it said of the same options.
pub fn merge(base: &str, fragment: &str) -> String {
    let own: Vec<&str> = fragment.lines().filter_map(option).collect();
    let kept = base
        .lines()
        .filter(|line| option(line).is_none_or(|name| !own.contains(&name)));
    let mut merged: Vec<&str> = kept.collect();
    merged.extend(fragment.lines().filter(|line| option(line).is_some()));
    merged.join("\n") + "\n"
}

/// The option of which a configuration's line says something.
fn option(line: &str) -> Option<&str> {
    let line = line.trim();
    match line.strip_prefix("# ") {
        Some(unset) => unset
            .strip_suffix(" is not set")
            .filter(|name| name.starts_with("CONFIG_")),
        None => line
            .split_once('=')
            .map(|(name, _)| name)
            .filter(|name| name.starts_with("CONFIG_")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::FRAGMENT;
    use super::*;
    use crate::cache::remove;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("halligan-tree-{name}-{}", std::process::id()));
            remove(&path).unwrap();
            for file in [
                "Makefile",
                "Kbuild",
                "arch/arm64/Kconfig",
                "arch/arm64/configs/defconfig",
            ] {
                let file = path.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "").unwrap();
            }
            Self(path)
        }

        fn refused(&self, base: Base) -> String {
            let tree = Tree::open(&self.0, base, None, Flags::ours());
            tree.unwrap_err().to_string()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            remove(&self.0).unwrap();
        }
    }

    #[test]
    fn the_fragment_wins_and_all_else_stays() {
        let base = "# Linux/arm64\nCONFIG_A=y\nCONFIG_AB=y\n# CONFIG_B is not set\nCONFIG_N=8\n# CONFIG_C is not set\n";
        let fragment = "# ours\nCONFIG_A=m\nCONFIG_B=y\n# CONFIG_N is not set\n";
        assert_eq!(
            merge(base, fragment),
            "# Linux/arm64\nCONFIG_AB=y\n# CONFIG_C is not set\nCONFIG_A=m\nCONFIG_B=y\n# CONFIG_N is not set\n"
        );
        assert_eq!(merge("", "CONFIG_A=y"), "CONFIG_A=y\n");
        let merged = merge(base, FRAGMENT);
        assert!(absent(FRAGMENT, &merged).is_empty());
        assert_eq!(merge(&merged, FRAGMENT), merged);
    }

    #[test]
    fn what_is_no_tree_is_named_by_what_it_lacks() {
        let scratch = Scratch::new("none");
        fs::remove_file(scratch.0.join("Kbuild")).unwrap();
        let error = scratch.refused(Base::Nothing);
        assert!(
            error.ends_with("is no source tree of Linux: it has no Kbuild"),
            "{error}"
        );
        let error = Tree::open(
            Path::new("/no/such/tree"),
            Base::Nothing,
            None,
            Flags::ours(),
        );
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "cannot open the tree /no/such/tree");
    }

    #[test]
    fn a_tree_that_was_built_in_place_is_refused_with_the_mend() {
        let scratch = Scratch::new("built");
        fs::write(scratch.0.join(".config"), "CONFIG_A=y\n").unwrap();
        let error = scratch.refused(Base::Nothing);
        for part in [
            "was built in place (.config is there)",
            "ARCH=arm64 mrproper",
            "--config ",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("worktree"), "{error}");
        fs::create_dir(scratch.0.join(".git")).unwrap();
        assert!(scratch.refused(Base::Nothing).contains("worktree add"));
        fs::remove_file(scratch.0.join(".config")).unwrap();
        fs::create_dir_all(scratch.0.join("include/config")).unwrap();
        let error = scratch.refused(Base::Nothing);
        assert!(error.contains("(include/config is there)"), "{error}");
    }

    #[test]
    fn pages_are_those_that_are_asked_for_or_those_of_the_base() {
        let scratch = Scratch::new("pages");
        let chosen = |pages, base: &str| {
            let tree = Tree::open(&scratch.0, Base::Nothing, pages, Flags::ours()).unwrap();
            Pages::of(&Config::parse(&merge(base, &tree.fragment(base)))).unwrap()
        };
        let base = "CONFIG_ARM64_16K_PAGES=y\n";
        assert_eq!(chosen(None, ""), Pages::Kib4);
        assert_eq!(chosen(None, base), Pages::Kib16);
        assert_eq!(chosen(Some(Pages::Kib64), base), Pages::Kib64);
        assert_eq!(chosen(Some(Pages::Kib4), base), Pages::Kib4);
    }

    #[test]
    fn a_base_must_be_a_configuration() {
        let scratch = Scratch::new("base");
        for name in ["nodefconfig", "../../Makefile", "configs/defconfig", ""] {
            let error = scratch.refused(Base::Named(name.to_owned()));
            assert!(error.contains("arch/arm64/configs"), "{error}");
        }
        let error = scratch.refused(Base::File(scratch.0.join("Makefile")));
        assert!(error.contains("is no kernel's configuration"), "{error}");
        let named = Base::Named("defconfig".to_owned());
        Tree::open(&scratch.0, named, None, Flags::ours()).unwrap();
    }

    #[test]
    fn each_tree_has_a_folder_for_its_objects() {
        let (one, two) = (Scratch::new("one"), Scratch::new("two"));
        let root = Scratch::new("cache");
        let cache = Cache::at(&root.0).unwrap();
        let objects_of = |scratch: &Scratch, pages| {
            let tree = Tree::open(&scratch.0, Base::Nothing, pages, Flags::ours()).unwrap();
            tree.objects(&cache).unwrap()
        };
        let objects = |scratch| objects_of(scratch, None);
        assert_eq!(objects(&one), objects(&one));
        assert_ne!(objects(&one), objects(&two));
        assert_ne!(objects(&one), objects_of(&one, Some(Pages::Kib64)));
        assert!(objects(&one).starts_with(cache.path()));
    }
}
