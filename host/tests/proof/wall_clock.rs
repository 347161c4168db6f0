//! A wall clock of one process that jumps; what has passed since the boot goes on as it is.
//!
//! The processes load `wall_clock.c` before the C library. libfaketime does the same for a process without an allocator of its own:
//! it allocates as it starts, and jemalloc reads a clock as it starts, so that each waits for the other.

use crate::harness::Site;
use postwarm::clock::{Clock, SystemClock};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How far the clock is set off to see whether a process follows it.
const TRIED_SECS: i64 = 1_000_000;
/// By how much a process's answer may be late.
const LATE_MAX_SECS: i64 = 60;

/// The wall clock of one site's processes.
pub struct WallClock {
    file: File,
}

impl WallClock {
    /// Gives the site a wall clock of its own; where none can be made, the reason.
    pub fn give(site: Site) -> (Site, Result<WallClock, String>) {
        let (library, path) = (site.folder.path().join("wall-clock.so"), site.folder.path().join("wall-clock"));
        if let Err(because) = compile(&library) {
            return (site, Err(because));
        }
        let clock = WallClock { file: OpenOptions::new().write(true).create_new(true).open(&path).unwrap() };
        let environment = [("LD_PRELOAD", library), ("WALL_CLOCK", path)];
        clock.jump(TRIED_SECS);
        if let Err(because) = follows(&environment) {
            return (site, Err(because));
        }
        clock.jump(0);
        let site = environment.iter().fold(site, |site, (name, value)| site.env(name, value.to_str().unwrap()));
        (site, Ok(clock))
    }

    /// Sets the clock so many seconds off the right time: the next reading shows it.
    pub fn jump(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

/// Rust links with `cc` too, so that it is there wherever the proof was built.
fn compile(library: &Path) -> Result<(), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proof/wall_clock.c");
    let mut cc = Command::new("cc");
    let compiled = cc.args(["-shared", "-fPIC", "-O2", "-o"]).arg(library).arg(source).output();
    let compiled = compiled.map_err(|error| format!("cc cannot be run: {error}"))?;
    let why = || format!("cc cannot compile wall_clock.c: {}", String::from_utf8_lossy(&compiled.stderr));
    compiled.status.success().then_some(()).ok_or_else(why)
}

/// Whether a process of the system that gets this environment has the clock that was set.
fn follows(environment: &[(&str, PathBuf)]) -> Result<(), String> {
    let date = Command::new("date").arg("+%s").envs(environment.iter().cloned()).output();
    let date = date.map_err(|error| format!("date cannot be run: {error}"))?;
    let told = String::from_utf8_lossy(&date.stdout);
    let right = SystemClock.now().wall_ms / 1000;
    let off = told.trim().parse::<i64>().map_or(0, |told| told - right);
    let is_off = (TRIED_SECS - LATE_MAX_SECS..=TRIED_SECS).contains(&off);
    is_off
        .then_some(())
        .ok_or_else(|| format!("date does not follow the clock that it was given: {told}{}", String::from_utf8_lossy(&date.stderr)))
}
