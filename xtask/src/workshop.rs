//! What every command needs at hand: the cache, the compiler for the bare machine, places to write.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::board::Board;
use crate::cache::Cache;
use crate::el3::{El3, Firmware};
use crate::progress::Progress;
use crate::toolchain::Target;

/// The tools and places of one run of xtask.
pub struct Workshop {
    /// Where everything fetched is kept.
    pub cache: Cache,
    /// Where progress is shown.
    pub progress: Progress,
    /// The way to compile for the bare machine.
    pub target: Target,
    /// What the machines of this command have at EL3.
    pub el3: El3,
    /// Which machine this command boots, unless a test needs its own.
    pub board: Board,
}

impl Workshop {
    /// Finds or makes them.
    pub fn open() -> Result<Self> {
        let progress = Progress::new();
        let cache = Cache::open()?;
        let target = Target::prepare(&cache, &progress)?;
        Ok(Self {
            cache,
            progress,
            target,
            el3: El3::None,
            board: Board::Virt,
        })
    }

    /// The same, with `el3` below what is booted.
    pub fn above(mut self, el3: El3) -> Self {
        self.el3 = el3;
        self
    }

    /// The same, booting `board`.
    pub fn on(mut self, board: Board) -> Self {
        self.board = board;
        self
    }

    /// The firmware below what is booted, built if need be.
    pub fn firmware(&self) -> Result<Option<Firmware>> {
        Firmware::prepare(self, self.board, self.el3)
    }

    /// The workspace's folder.
    pub fn root(&self) -> &'static Path {
        root()
    }

    /// A path for `name` in target/xtask, which then exists.
    pub fn output(&self, name: &str) -> Result<PathBuf> {
        output(name)
    }
}

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
    own.parent().unwrap_or(own)
}
