//! The kernel's own parser of KTAP, out of the source package that our kernel was built from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::Result;

use super::kbuild::run;
use super::source::tarball;
use crate::archive::unpack;
use crate::cache::{Cache, fingerprint, remove, unwritable};
use crate::progress::Progress;

/// Where it is in the source.
const PLACE: &str = "tools/testing/kunit";

/// The folder with kunit_parser.py; nothing if the cache has no source package, which is not fetched for it.
pub fn parser(cache: &Cache, progress: &Progress) -> Result<Option<PathBuf>> {
    let Some(package) = package(&cache.path().join("packages")) else {
        return Ok(None);
    };
    let _lock = cache.lock("kunit", progress)?;
    let key = fingerprint(&[&package.to_string_lossy()]);
    let entry = cache.entry(&format!("kunit-{key}"), |dir| {
        let step = progress.step("unpack the kernel's parser of test results");
        let parts = dir.join("package");
        fs::create_dir_all(&parts).map_err(|error| unwritable(&parts, &error))?;
        unpack(&package, &parts)?;
        let mut tar = supervisor::command("tar");
        tar.arg("-x").arg("-f").arg(tarball(&parts)?);
        tar.arg("-C").arg(dir).arg("--strip-components=4");
        tar.args(["--wildcards", &format!("*/{PLACE}/*.py")]);
        run(&mut tar, &dir.join("unpack.log"), "tar", Child::wait)?;
        remove(&parts)?;
        step.done();
        Ok(())
    })?;
    Ok(Some(entry))
}

/// The source package in the folder of all that were fetched; of several the last by name.
pub fn package(fetched: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(fetched).ok()?.flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten());
    let is_source = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("linux-source-") && name.ends_with(".deb")
    };
    let paths = files.flatten().map(|file| file.path()).filter(is_source);
    paths.max_by_key(|path| path.file_name().map(ToOwned::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_package_is_found_among_others_and_none_is_fetched() {
        let root = std::env::temp_dir().join(format!("halligan-kunit-{}", std::process::id()));
        remove(&root).unwrap();
        let cache = Cache::at(&root).unwrap();
        assert!(parser(&cache, &Progress::new()).unwrap().is_none());
        let packages = cache.dir("packages").unwrap();
        for name in ["a/libc6_2_arm64.deb", "b/linux-source-7.3_1_all.deb"] {
            let path = packages.join(name);
            fs::create_dir(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = package(&packages).unwrap();
        assert!(found.ends_with("b/linux-source-7.3_1_all.deb"));
        remove(&root).unwrap();
    }
}
