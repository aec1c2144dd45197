//! What every command needs at hand: the cache, the compiler for the bare machine, places to write.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::board::Board;
use crate::el3::El3;
use debian::cache::Cache;
use debian::paths;
use debian::progress::Progress;
use debian::toolchain::Target;

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

    /// The workspace's folder.
    pub fn root(&self) -> &'static Path {
        paths::root()
    }

    /// A path for `name` in target/xtask, which then exists.
    pub fn output(&self, name: &str) -> Result<PathBuf> {
        paths::output(name)
    }
}
