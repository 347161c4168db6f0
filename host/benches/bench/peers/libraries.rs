//! Mail libraries of other languages, fetched by their own package managers into `target/bench/peers`.
//!
//! Each sends over `SESSIONS` kept connections.

use crate::peers::{BODY_OCTETS, SESSIONS, Sent, timed};
use crate::process::output;
use crate::sinks::Address;
use std::path::PathBuf;
use std::process::Command;

/// Where the programs that use the libraries are.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/bench/peers");
const FETCHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench/peers");

/// What a library sends.
#[derive(Clone, Copy)]
pub enum Letters {
    /// A message for each recipient, made as the library is meant to be used: the same work as the product's.
    Made,
    /// The same octets again and again, ready before the clock starts.
    Ready,
}

/// A library, pinned.
pub struct Library {
    name: &'static str,
    version: &'static str,
    /// The program that runs the script, and the script.
    program: &'static str,
    script: &'static str,
    /// Fetches into a folder, whose name and the package's stand at the end.
    fetch: fn(&str, &str) -> Command,
}

pub const NODEMAILER: Library = Library {
    name: "nodemailer",
    version: "10.6.1",
    program: "node",
    script: "nodemailer.cjs",
    fetch: |folder, package| {
        let mut command = Command::new("npm");
        command.args(["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--prefix", folder]);
        command.arg(package.replace("==", "@"));
        command
    },
};

pub const AIOSMTPLIB: Library = Library {
    name: "aiosmtplib",
    version: "5.1.3",
    program: "python3",
    script: "aiosmtplib_pool.py",
    fetch: |folder, package| {
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", folder, package]);
        command
    },
};

impl Library {
    /// Fetches it, once for a version.
    pub fn fetch(&self) -> Result<(), String> {
        let folder = self.folder();
        let complete = folder.join("complete");
        if complete.exists() {
            return Ok(());
        }
        let fail = |error: std::io::Error| error.to_string();
        std::fs::create_dir_all(&folder).map_err(fail)?;
        output(&mut (self.fetch)(&folder.to_string_lossy(), &format!("{}=={}", self.name, self.version)))?;
        std::fs::write(complete, "").map_err(fail)
    }

    /// Sends to a sink.
    pub fn send(&self, sink: Address, messages: usize, letters: Letters) -> Sent {
        let mut command = Command::new(self.program);
        command.arg(format!("{PROGRAMS}/{}", self.script)).arg(self.folder());
        command.args([usize::from(sink.port), SESSIONS, messages, BODY_OCTETS].map(|n| n.to_string()));
        command.arg(match letters {
            Letters::Made => "made",
            Letters::Ready => "ready",
        });
        timed(&mut command, sink, messages)
    }

    fn folder(&self) -> PathBuf {
        PathBuf::from(format!("{FETCHED}/{}-{}", self.name, self.version))
    }
}
