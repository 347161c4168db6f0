//! Says that a test did not run, so that it is never counted as passed.
//!
//! Invariant: one line a skipped test, in the form that `make test` counts: `skipped: NAME because REASON`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// Says on standard error, and in the file that POSTWARM_SKIP_LOG names, that the test did not run. The caller returns.
///
/// # Panics
/// Where that file cannot be written: a skip that nobody hears of would pass for a pass.
pub fn skip(test: &str, because: &str) {
    skip_to(std::env::var_os("POSTWARM_SKIP_LOG").map(PathBuf::from), test, because);
}

fn skip_to(log: Option<PathBuf>, test: &str, because: &str) {
    let line = format!("skipped: {test} because {because}\n");
    eprint!("{line}");
    let Some(path) = log else { return };
    let appended = OpenOptions::new().create(true).append(true).open(&path).and_then(|mut file| file.write_all(line.as_bytes()));
    appended.unwrap_or_else(|error| panic!("POSTWARM_SKIP_LOG={}: {error}", path.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_skipped_test_is_a_line_of_the_log() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("skipped");
        skip_to(Some(log.clone()), "one", "there is no server");
        skip_to(Some(log.clone()), "two", "there is none either");
        let text = std::fs::read_to_string(log).expect("the log");
        assert_eq!(text, "skipped: one because there is no server\nskipped: two because there is none either\n");
    }
}
