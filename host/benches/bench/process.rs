//! Processes that the bench starts: each ends with its handle.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A process that ends with its handle.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program by name, also where a user's PATH has no folder of the system's.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// This executable in one of its other roles.
pub fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the system knows this program"));
    command.arg(name);
    command
}

/// Runs a program to its end; answers what it printed.
pub fn output(command: &mut Command) -> Result<String, String> {
    let what = Path::new(command.get_program()).display().to_string();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{what}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{what}: {}: {}", output.status, said.lines().last().unwrap_or_default()))
}
