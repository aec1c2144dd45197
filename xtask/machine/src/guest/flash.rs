//! A flash of the guest's own: its size, or the file that it begins with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use hv_bundle::{MAX_FLASH, MIN_FLASH, parse_size};
use serde::Deserialize;

/// What the key `flash` says.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(from = "String")]
pub enum Flash {
    /// So large, and erased.
    Size(String),
    /// It begins with what is in this file, and is as large as that has to be.
    File(PathBuf),
}

impl From<String> for Flash {
    /// A word that begins with a digit is a size; a file of such a name has a folder in front, as in `./64M`.
    fn from(text: String) -> Self {
        let is_word = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if is_word && text.starts_with(|first: char| first.is_ascii_digit()) {
            Self::Size(text)
        } else {
            Self::File(text.into())
        }
    }
}

impl Flash {
    /// How many bytes it has.
    pub fn bytes(&self) -> Result<u64> {
        match self {
            Self::Size(size) => {
                let is_flash = |&bytes: &u64| {
                    bytes.is_power_of_two() && (MIN_FLASH..=MAX_FLASH).contains(&bytes)
                };
                let bytes = parse_size(size).ok().filter(is_flash);
                bytes.with_context(|| {
                    format!(
                        "flash = \"{size}\" is no size of a flash, which is a power of two from 256K to 64M"
                    )
                })
            }
            Self::File(path) => {
                let said = || format!("flash = \"{}\"", path.display());
                let data = fs::metadata(path)
                    .with_context(|| format!("{} is no size and no file", said()))?;
                ensure!(data.is_file(), "{} is no file; give a file", said());
                let size = data.len();
                ensure!(
                    size <= MAX_FLASH,
                    "{} has {size} bytes, and a flash has at most 64M; give a smaller file",
                    said()
                );
                Ok(size.next_power_of_two().max(MIN_FLASH))
            }
        }
    }

    /// The file that it begins with.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Size(_) => None,
            Self::File(path) => Some(path),
        }
    }

    /// The same, for who knows where it is.
    pub fn file_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Size(_) => None,
            Self::File(path) => Some(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flash(text: &str) -> Flash {
        Flash::from(text.to_owned())
    }

    fn refused(flash: &Flash) -> String {
        format!("{:#}", flash.bytes().unwrap_err())
    }

    #[test]
    fn a_word_with_a_digit_in_front_is_a_size() {
        assert_eq!(flash("64M").bytes().unwrap(), 64 << 20);
        assert_eq!(flash("256K").file(), None);
        assert!(refused(&flash("3M")).contains("power of two from 256K to 64M"));
        for file in ["u-boot.env", "./64M", "flash/64M"] {
            assert_eq!(flash(file).file(), Some(Path::new(file)));
        }
    }

    #[test]
    fn a_file_makes_a_flash_that_it_fits_into() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flash");
        let file = fs::File::create(&path).unwrap();
        let flash = Flash::File(path);
        for (size, bytes) in [
            (0, 256 << 10),
            (1, 256 << 10),
            ((256 << 10) + 1, 512 << 10),
            (64 << 20, 64 << 20),
        ] {
            file.set_len(size).unwrap();
            assert_eq!(flash.bytes().unwrap(), bytes, "of {size} bytes");
        }
        file.set_len((64 << 20) + 1).unwrap();
        assert!(refused(&flash).contains("has 67108865 bytes, and a flash has at most 64M"));
        let folder = Flash::File(folder.path().to_owned());
        assert!(refused(&folder).contains("is no file; give a file"));
        let missing = Flash::File("/nonexistent/flash".into());
        assert!(
            refused(&missing).contains("flash = \"/nonexistent/flash\" is no size and no file")
        );
    }
}
