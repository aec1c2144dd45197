//! What can be said of a job, and made for it, before it runs: for who has many of them.

use std::path::PathBuf;

use anyhow::Result;

use super::Kdump;
use super::asked::Extras;
use super::fixture::Lab;
use super::together::Beside;
use crate::plan::Plan;
use debian::archive;
use debian::paths;
use machine::workshop::Workshop;

/// A kernel that was built from a source tree.
#[derive(Clone, Debug)]
pub struct TreeKernel {
    /// The Image.
    pub image: PathBuf,
    /// The same with its symbols.
    pub vmlinux: PathBuf,
    /// The file with its configuration.
    pub config: PathBuf,
}

impl Kdump {
    /// What is asked for. What of it cannot be is wrong usage, and said before anything is built.
    pub(super) fn settle(&mut self) -> Result<(Plan, Extras)> {
        let options = self.asked.options()?;
        self.hear(&options)?;
        let plan = self.plan();
        self.check(&plan, options.disks.len())?;
        let extras = self.asked.extras(options, self.board(), plan.program())?;
        self.check_paths()?;
        Ok((plan, extras))
    }

    /// That files to be read are there, and that files to be written can be.
    fn check_paths(&self) -> Result<()> {
        for (path, option) in [(&self.report, "--report"), (&self.html, "--html")] {
            if let Some(path) = path {
                paths::check_output(path, option)?;
            }
        }
        let makedumpfile = &self.saving.makedumpfile;
        for (path, option) in [(makedumpfile, "--makedumpfile"), (&self.beside, "--beside")] {
            if let Some(path) = path {
                paths::check_input(path, option)?;
            }
        }
        if let Some(path) = &self.beside {
            Beside::options(path)?;
        }
        if let Some(kernel) = &self.kernel {
            super::beside(kernel, self.vmlinux.as_deref())?;
        }
        Ok(())
    }

    /// That the job can be done, as far as its command line and its guest file say.
    pub fn check_alone(mut self) -> Result<()> {
        let options = self.asked.options()?;
        self.hear(&options)?;
        self.check(&self.plan(), options.disks.len())
    }

    /// What has to be made before the job runs: what is made for one job does for each that answers the same.
    pub fn parts(mut self) -> Result<String> {
        let options = self.asked.options()?;
        self.hear(&options)?;
        let plan = self.plan();
        let machine = (self.board(), self.el3.unwrap_or_default());
        let kernel = (&self.kernel, &self.vmlinux, self.stock, &self.from_tree);
        let variant = plan.kernel_variant();
        let program = plan.program();
        let saving = &self.saving;
        Ok(format!(
            "{machine:?} {kernel:?} {variant:?} {program:?} {saving:?}"
        ))
    }

    /// Makes all of that, so that the job has only to run.
    pub fn prepare(mut self) -> Result<()> {
        let options = self.asked.options()?;
        self.hear(&options)?;
        let plan = self.plan();
        let system = self.system(&plan)?;
        let (board, el3) = (self.board(), self.el3.unwrap_or_default());
        let workshop = Workshop::open()?.above(el3).on(board);
        Lab::prepare_saving(&workshop, &system, plan.program(), &self.saving)?;
        archive::say_fetched(&workshop.progress);
        Ok(())
    }

    /// Builds the source tree, if the job has one, whatever its configuration lacks: jobs are not alike in what they need.
    pub fn build_tree(&self) -> Result<Option<TreeKernel>> {
        let built = self.from_tree.build_if(|_| Ok(()))?;
        Ok(built.map(|(kernel, config)| TreeKernel {
            image: kernel.image,
            vmlinux: kernel.vmlinux,
            config,
        }))
    }
}
