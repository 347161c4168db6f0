//! A data folder for a command that must leave nothing behind.
//!
//! Invariant: its name cannot be guessed, so that nobody else of the machine can be there first.

use aws_lc_rs::error::Unspecified;
use std::path::{Path, PathBuf};

/// The folder; whoever needs it makes it, and it goes with this value.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Names a folder of its own within this one. Fails where the system has no randomness.
    pub fn new(within: &Path) -> Result<Scratch, Unspecified> {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random)?;
        Ok(Scratch(within.join(format!("postwarm-{:032x}", u128::from_ne_bytes(random)))))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is not there where nobody needed it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
