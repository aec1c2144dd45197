//! The configuration of a kernel: read from a `.config`, or from the Image that it was built into.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;

/// What stands before and behind the gzipped configuration in an Image with CONFIG_IKCONFIG=y (Linux, kernel/configs.c;
/// scripts/extract-ikconfig looks for the same).
const BEGIN: &[u8] = b"IKCFG_ST";
const END: &[u8] = b"IKCFG_ED";
/// A configuration has some 300 KB at most.
const MOST: u64 = 16 << 20;

/// What a kernel was configured with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The options that are set, without CONFIG_.
    values: BTreeMap<String, String>,
}

impl Config {
    /// That of the text of a `.config`.
    pub fn parse(text: &str) -> Self {
        let set = text.lines().filter_map(|line| {
            let (name, value) = line.trim().strip_prefix("CONFIG_")?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        });
        Self {
            values: set.collect(),
        }
    }

    /// That which `image`, an Image that is not packed, has in itself, if it has.
    pub fn of_image(image: &[u8]) -> Result<Option<Self>> {
        // The words stand in error messages of programs, too, but there no gzip stream follows.
        let begins = |at: &usize| {
            let behind = image.get(at + BEGIN.len()..).unwrap_or_default();
            behind.starts_with(&[0x1f, 0x8b])
        };
        let Some(at) = find_all(image, BEGIN).find(begins) else {
            return Ok(None);
        };
        let packed = image.get(at + BEGIN.len()..).unwrap_or_default();
        let end = find_all(packed, END).next();
        let packed = packed.get(..end.unwrap_or(packed.len())).unwrap_or(packed);
        let mut text = String::new();
        GzDecoder::new(packed)
            .take(MOST)
            .read_to_string(&mut text)
            .context("the configuration in the Image (CONFIG_IKCONFIG) is damaged")?;
        Ok(Some(Self::parse(&text)))
    }

    /// That of the file `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        let config = Self::parse(&text);
        ensure!(
            !config.values.is_empty(),
            "{} is no kernel's configuration: no line of it sets an option (CONFIG_...=...)",
            path.display()
        );
        Ok(config)
    }

    /// What the option `name`, without CONFIG_, is set to.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether that is built into the kernel, and no module.
    pub fn is_built_in(&self, name: &str) -> bool {
        self.value(name) == Some("y")
    }
}

/// Where `needle` is in `all`.
fn find_all<'a>(all: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = needle.first().copied().unwrap_or_default();
    let places = all.iter().enumerate();
    places
        .filter(move |(_, byte)| **byte == first)
        .map(|(at, _)| at)
        .filter(move |at| all.get(*at..).is_some_and(|rest| rest.starts_with(needle)))
}

/// Where the configuration of a kernel may be that has none in itself, the likeliest first: `config-6.12` beside a
/// `vmlinuz-6.12`, `.config` or `config` beside any, and the tree's `.config`, if it lies where a tree has its Image.
pub fn places(kernel: &Path) -> Vec<PathBuf> {
    let name = kernel
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let version = name.as_deref().and_then(|name| name.split_once('-'));
    let mut places = Vec::new();
    if let Some((_, version)) = version {
        places.push(kernel.with_file_name(format!("config-{version}")));
    }
    places.push(kernel.with_file_name(".config"));
    places.push(kernel.with_file_name("config"));
    let folder = kernel.parent().unwrap_or(Path::new(""));
    if folder.ends_with("arch/arm64/boot") {
        let tree = folder.ancestors().nth(3).unwrap_or(folder);
        places.push(tree.join(".config"));
    }
    places
}

/// A configuration, and whose word it is.
#[derive(Debug)]
pub struct Found {
    /// What it says.
    pub config: Config,
    /// Where that stands.
    pub place: String,
}

/// The configuration of the kernel in the file `kernel`, whose unpacked Image is `image`: its own, or that of a file beside it
/// or beside `vmlinux`.
pub fn find(image: &[u8], kernel: &Path, vmlinux: Option<&Path>) -> Result<Option<Found>> {
    if let Some(config) = Config::of_image(image)? {
        let place = format!("the configuration in {}", kernel.display());
        return Ok(Some(Found { config, place }));
    }
    let beside_vmlinux = vmlinux.map(|path| path.with_file_name(".config"));
    let mut places = places(kernel).into_iter().chain(beside_vmlinux);
    let Some(path) = places.find(|path| path.is_file()) else {
        return Ok(None);
    };
    let config = Config::read(&path)?;
    let place = path.display().to_string();
    Ok(Some(Found { config, place }))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const TEXT: &str = "#\n# Linux/arm64 7.3.4 Kernel Configuration\n#\nCONFIG_A=y\nCONFIG_B=m\n\
                        # CONFIG_C is not set\nCONFIG_N=128\nCONFIG_S=\"a=b\"\n";

    fn packed(text: &str) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        packer.write_all(text.as_bytes()).unwrap();
        packer.finish().unwrap()
    }

    fn image(packed: &[u8]) -> Vec<u8> {
        let mut image = b"MZ@\xfa IKCFG_ST is the begin of IKCFG_ED".to_vec();
        image.resize(4096, 0);
        image.extend(BEGIN);
        image.extend(packed);
        image.extend(END);
        image.resize(12000, 0x5a);
        image
    }

    #[test]
    fn options_have_their_values() {
        let config = Config::parse(TEXT);
        assert!(config.is_built_in("A") && !config.is_built_in("B"));
        assert_eq!(config.value("B"), Some("m"));
        assert_eq!(config.value("C"), None);
        assert_eq!(config.value("N"), Some("128"));
        assert_eq!(config.value("S"), Some("\"a=b\""));
    }

    #[test]
    fn an_image_has_its_configuration_between_the_marks() {
        let image = image(&packed(TEXT));
        assert_eq!(Config::of_image(&image).unwrap(), Some(Config::parse(TEXT)));
        assert_eq!(Config::of_image(&image[..4000]).unwrap(), None);
        assert_eq!(Config::of_image(b"").unwrap(), None);
    }

    #[test]
    fn a_configuration_that_is_damaged_is_said_to_be() {
        let mut packed = packed(TEXT);
        packed.truncate(40);
        let error = Config::of_image(&image(&packed)).unwrap_err().to_string();
        assert!(error.contains("CONFIG_IKCONFIG) is damaged"), "{error}");
    }

    #[test]
    fn a_configuration_is_looked_for_where_kernels_lie() {
        let names = |kernel: &str| -> Vec<String> {
            let places = places(Path::new(kernel)).into_iter();
            places.map(|path| path.display().to_string()).collect()
        };
        assert_eq!(
            names("/boot/vmlinuz-6.12.1-arm64"),
            ["/boot/config-6.12.1-arm64", "/boot/.config", "/boot/config"]
        );
        assert_eq!(
            names("/o/arch/arm64/boot/Image.gz").last().unwrap(),
            "/o/.config"
        );
        assert_eq!(names("Image"), [".config", "config"]);
    }

    #[test]
    fn the_image_has_the_word_and_then_the_file_beside_it() {
        let folder = std::env::temp_dir().join(format!("halligan-config-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let kernel = folder.join("Image");
        assert!(find(b"MZ", &kernel, None).unwrap().is_none());
        fs::write(folder.join(".config"), "CONFIG_BESIDE=y\n").unwrap();
        let found = find(b"MZ", &kernel, None).unwrap().unwrap();
        assert!(found.config.is_built_in("BESIDE") && found.place.ends_with("/.config"));
        let found = find(&image(&packed(TEXT)), &kernel, None).unwrap().unwrap();
        assert!(found.config.is_built_in("A") && found.place.starts_with("the configuration in "));
        let elsewhere = Path::new("/nowhere/Image");
        let vmlinux = folder.join("vmlinux");
        let found = find(b"MZ", elsewhere, Some(&vmlinux)).unwrap().unwrap();
        assert!(found.config.is_built_in("BESIDE"));
        fs::write(folder.join(".config"), "nothing\n").unwrap();
        let error = find(b"MZ", &kernel, None).unwrap_err().to_string();
        assert!(error.contains("is no kernel's configuration"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }
}
