//! A Kafka of one scenario alone, so that it can be stopped, killed and paused.

use crate::harness::kafka::Kafka;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A running broker. Dropping it ends it.
pub struct OwnBroker {
    folder: TempDir,
    cache: PathBuf,
    pub topics: Kafka,
}

impl OwnBroker {
    /// Starts one from the jars that POSTWARM_TEST_KAFKA_LIBS names. `Err` says why there is none.
    pub fn start() -> Result<OwnBroker, String> {
        let libs = std::env::var("POSTWARM_TEST_KAFKA_LIBS")
            .map_err(|_| "POSTWARM_TEST_KAFKA_LIBS is not set; `.ci/kafka start CACHE WORK` prints it".to_owned())?;
        let cache = Path::new(&libs).parent().ok_or_else(|| format!("{libs} lies in no folder"))?.to_owned();
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let printed = script(&["start".as_ref(), &cache, folder.path()])?;
        let address = printed.lines().find_map(|line| line.strip_prefix("export POSTWARM_TEST_KAFKA="));
        let address = address.ok_or_else(|| format!(".ci/kafka printed no address: {printed}"))?;
        Ok(OwnBroker { topics: Kafka::at(address), cache, folder })
    }

    /// Stops it in good order.
    pub fn stop(&self) {
        script(&["stop".as_ref(), self.folder.path()]).unwrap();
    }

    /// Sends a signal, such as `-KILL`; false where nothing runs.
    pub fn signal(&self, signal: &str) -> bool {
        let Ok(pid) = std::fs::read_to_string(self.folder.path().join("kafka.pid")) else { return false };
        Command::new("kill").args([signal, pid.trim()]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Starts it again where it was, and waits until it answers.
    pub fn start_again(&self) {
        script(&["again".as_ref(), &self.cache, self.folder.path()]).unwrap();
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        // A paused process takes no other signal.
        self.signal("-CONT");
        self.signal("-KILL");
    }
}

/// Runs `.ci/kafka`; answers what it printed.
fn script(arguments: &[&Path]) -> Result<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/kafka");
    let output = Command::new(path).args(arguments).stdin(Stdio::null()).output().map_err(|error| format!(".ci/kafka: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(".ci/kafka: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
