//! Which files of a folder, and of those that its secrets come from, have changed and hold still.
//!
//! Invariant: a file that is being written is not read: the first half of a TOML file is TOML too. Time is a parameter.

use crate::config::files::{Files, names};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often to look, where looking takes at most one part in `POLL_PART` of the time; else less often, but every `POLL_MAX`.
pub const POLL: Duration = Duration::from_millis(250);
const POLL_MAX: Duration = Duration::from_secs(1);
const POLL_PART: u32 = 100;
/// A changed file is read once it has been the same for so long.
const STILL_MS: i64 = 300;

/// What tells one state of a file from another: mtime, ctime (both in ns), size, inode. `None`: there is no file.
pub type Print = Option<(i128, i128, u64, u64)>;

#[derive(Debug, Clone, Copy)]
struct Seen {
    taken: Print,
    last: Print,
    /// When `last` was first seen.
    since_ms: i64,
}

impl Seen {
    /// Notes how the file is now. Answers whether that is new and has held still.
    fn is_due(&mut self, now: Print, now_ms: i64) -> bool {
        if self.last != now {
            self.last = now;
            self.since_ms = now_ms;
        }
        now != self.taken && now_ms - self.since_ms >= STILL_MS
    }
}

/// How long to wait after a look that took so long.
pub fn pause_after(took: Duration) -> Duration {
    (took * POLL_PART).clamp(POLL, POLL_MAX)
}

/// Watches one configuration folder by polling, which works on every file system and in every container.
#[derive(Debug)]
pub struct Watcher {
    files: Files,
    seen: BTreeMap<String, Seen>,
    /// The files that secrets come from; whoever needs one reads it himself.
    secrets: BTreeMap<PathBuf, Seen>,
}

impl Watcher {
    /// Reads all files as they are.
    pub fn new(dir: &Path) -> Watcher {
        let prints: BTreeMap<String, Print> = names(dir).into_iter().map(|name| (name.clone(), print(&dir.join(name)))).collect();
        let files = Files::read(dir);
        let seen = prints.into_iter().map(|(name, print)| {
            // What changed while it was read is read again.
            let taken = print.filter(|_| self::print(&dir.join(&name)) == print);
            (name, Seen { taken, last: print, since_ms: i64::MIN / 2 })
        });
        Watcher { seen: seen.collect(), files, secrets: BTreeMap::new() }
    }

    /// Watches these files too, and no other secret's. `files` says how each was when it was read.
    pub fn follow(&mut self, files: &BTreeMap<PathBuf, Print>) {
        self.secrets.retain(|path, _| files.contains_key(path));
        for (path, &taken) in files {
            let seen = self.secrets.entry(path.clone()).or_insert(Seen { taken, last: taken, since_ms: i64::MIN / 2 });
            seen.taken = taken;
        }
    }

    /// All files as they were last read.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Looks at the folder and the secrets' files. Returns the paths that were read anew, have to be, or are gone, if any.
    pub fn tick(&mut self, now_ms: i64) -> Option<Vec<String>> {
        let mut paths: BTreeSet<String> = names(&self.files.dir).into_iter().collect();
        paths.extend(self.seen.keys().cloned());
        let mut changed = Vec::new();
        for path in paths {
            let now = print(&self.files.dir.join(&path));
            let seen = self.seen.entry(path.clone()).or_insert(Seen { taken: None, last: None, since_ms: now_ms });
            if !seen.is_due(now, now_ms) {
                continue;
            }
            let before = self.files.texts.get(&path).cloned();
            self.files.take(&path);
            if print(&self.files.dir.join(&path)) == now {
                seen.taken = now;
                changed.push(path);
            } else {
                // It changed while it was read: the old text stands until it holds still.
                self.files.restore(&path, before);
                seen.since_ms = now_ms;
            }
        }
        for (path, seen) in &mut self.secrets {
            let now = print(path);
            if seen.is_due(now, now_ms) {
                seen.taken = now;
                changed.push(path.display().to_string());
            }
        }
        self.seen.retain(|_, seen| seen.taken.is_some() || seen.last.is_some());
        (!changed.is_empty()).then_some(changed)
    }
}

/// How a file is now, without its content; of a link to nothing, the link.
pub fn print(path: &Path) -> Print {
    let metadata = std::fs::metadata(path).or_else(|_| std::fs::symlink_metadata(path)).ok()?;
    let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    let changed = ns(metadata.ctime(), metadata.ctime_nsec());
    Some((ns(metadata.mtime(), metadata.mtime_nsec()), changed, metadata.size(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_takes_a_hundredth_of_the_time_within_bounds() {
        let after_us = |us| pause_after(Duration::from_micros(us)).as_millis();
        assert_eq!([0, 2_500, 2_600, 5_000, 10_000, 60_000_000].map(after_us), [250, 250, 260, 500, 1_000, 1_000]);
    }
}
