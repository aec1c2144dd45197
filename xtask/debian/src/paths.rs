//! Where things lie: the workspace, and what xtask writes of its own.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

/// A path for `name` in target/xtask, which then exists.
pub fn output(name: &str) -> Result<PathBuf> {
    // xtask itself is target/debug/xtask, wherever target may be.
    let own = std::env::current_exe().context("cannot find xtask's own file")?;
    let target = own.ancestors().nth(2).context("xtask lies in no target")?;
    let folder = target.join("xtask");
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    Ok(folder.join(name))
}

/// The workspace's folder.
pub fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own)
}

/// Replaces the file only if it changes, whole or not at all. Others may do the same at the same time.
pub fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    static WRITTEN: AtomicU32 = AtomicU32::new(0);
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_extension(format!("{}-{number}.partial", std::process::id()));
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // Half a file is of no use.
        let _ = fs::remove_file(&partial);
    }
    written.with_context(|| format!("cannot write {}; is the disk full?", path.display()))
}

/// That `path`, which is to be written at the end of a long job, can be: it is no folder, and its folder is there.
pub fn check_output(path: &Path, option: &str) -> Result<()> {
    ensure!(
        !path.is_dir(),
        "{option} {} is a folder; name a file",
        path.display()
    );
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    ensure!(
        folder.is_dir(),
        "there is no folder {} for {option} {}; make it first",
        folder.display(),
        path.display()
    );
    Ok(())
}

/// That a file which the user named with `option` is there.
pub fn check_input(path: &Path, option: &str) -> Result<()> {
    ensure!(
        path.exists(),
        "there is no file {} for {option}; check the path",
        path.display()
    );
    check_kind(path, option)
}

/// That `path`, which is `what`, is no folder, and nothing that may have to be waited for, as a FIFO is. Whether it is there is for
/// others to say.
pub fn check_kind(path: &Path, what: &str) -> Result<()> {
    let Ok(found) = fs::metadata(path) else {
        return Ok(());
    };
    let (shown, kind) = (path.display(), found.file_type());
    ensure!(!kind.is_dir(), "{what} {shown} is a folder, not a file");
    ensure!(
        !(kind.is_fifo() || kind.is_socket() || kind.is_char_device()),
        "{what} {shown} is no file; write what it gives into a file, and name that"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_read_or_written_are_named_before() {
        check_output(Path::new("report.json"), "--report").unwrap();
        check_output(&std::env::temp_dir().join("report.json"), "--report").unwrap();
        let error = check_output(Path::new("/no/such/report.json"), "--report").unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no folder /no/such for --report /no/such/report.json; make it first"
        );
        let error = check_output(Path::new("/"), "--report").unwrap_err();
        assert!(error.to_string().contains("name a file"), "{error}");
        check_input(&std::env::current_exe().unwrap(), "--elf").unwrap();
        let error = check_input(Path::new("/no/vmlinux"), "--guest-elf").unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no file /no/vmlinux for --guest-elf; check the path"
        );
        let error = check_input(&std::env::temp_dir(), "--elf").unwrap_err();
        assert!(error.to_string().ends_with("is a folder, not a file"));
        let error = check_input(Path::new("/dev/null"), "--elf").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("is no file; write what it gives into a file")
        );
    }

    #[test]
    fn a_file_that_many_write_is_one_of_theirs_and_nothing_else_stays() {
        let name = format!("halligan-written-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file.img");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..50 {
                        write_if_new(path, &[writer; 10_000]).unwrap();
                        let read = fs::read(path).unwrap();
                        assert_eq!(read, vec![read[0]; 10_000]);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
