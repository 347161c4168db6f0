//! The files of a configuration folder, as they were read.
//!
//! Invariant: this and `secrets` are the only readers of the folder; what loads works on the texts.

use crate::config::document::position;
use crate::config::problem::{Problem, Severity};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A larger file is a mistake, and is not read.
const FILE_OCTETS_MAX: u64 = 4 * 1024 * 1024;

/// All files of a folder, by their path within it.
#[derive(Debug, Clone, Default)]
pub struct Files {
    pub dir: PathBuf,
    /// Why it was not seen at first which organizations there are.
    pub unlisted: Option<Problem>,
    pub texts: BTreeMap<String, File>,
}

#[derive(Debug, Clone)]
pub struct File {
    pub text: Result<String, Problem>,
    /// Whether others than the owner may read it.
    pub shared: bool,
}

impl Files {
    pub fn read(dir: &Path) -> Files {
        let mut files = Files { dir: dir.to_owned(), unlisted: unlisted(&dir.join("organizations")), texts: BTreeMap::new() };
        for path in names(dir) {
            files.take(&path);
        }
        files
    }

    /// Reads one file anew; it goes where it no longer exists.
    pub fn take(&mut self, path: &str) {
        let file = read(&self.dir.join(path));
        self.restore(path, file);
    }

    /// Puts back what `take` replaced.
    pub fn restore(&mut self, path: &str, file: Option<File>) {
        match file {
            Some(file) => drop(self.texts.insert(path.to_owned(), file)),
            None => drop(self.texts.remove(path)),
        }
    }

    /// The path that a problem shows.
    pub fn shown(&self, path: &str) -> String {
        self.dir.join(path).display().to_string()
    }

    /// The organizations' files with this suffix, such as `.toml`, as stem and path.
    pub fn organizations(&self, suffix: &str) -> impl Iterator<Item = (&str, &str, &File)> {
        self.texts.iter().filter_map(move |(path, file)| {
            let stem = path.strip_prefix("organizations/")?.strip_suffix(suffix)?;
            Some((stem, path.as_str(), file))
        })
    }
}

/// The paths within the folder that belong to a configuration.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = ["postwarm.toml", "providers.toml"]
        .into_iter()
        .filter(|name| dir.join(name).symlink_metadata().is_ok())
        .map(str::to_owned)
        .collect();
    let entries = std::fs::read_dir(dir.join("organizations")).into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        // Hidden files are those of editors and half-written ones of ours.
        if !name.starts_with('.') && (name.ends_with(".toml") || name.ends_with(".keys")) {
            names.push(format!("organizations/{name}"));
        }
    }
    names.sort();
    names
}

/// A folder that cannot be listed is not an empty one.
fn unlisted(organizations: &Path) -> Option<Problem> {
    let error = std::fs::read_dir(organizations).err().filter(|e| e.kind() != std::io::ErrorKind::NotFound)?;
    let message = format!("cannot be read: {error}");
    Some(Problem::of(organizations.display().to_string(), Severity::Error, message, "make it a folder that this user may read"))
}

fn read(path: &Path) -> Option<File> {
    let shown = path.display().to_string();
    let failed =
        |message: String, remedy: &str| Some(File { text: Err(Problem::of(&shown, Severity::Error, message, remedy)), shared: false });
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.is_symlink() => {
            return failed("is a link to nothing".to_owned(), "mend the link, or remove it");
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => return failed(format!("cannot be read: {e}"), "make it readable"),
    };
    if !metadata.is_file() || metadata.len() > FILE_OCTETS_MAX {
        return failed("is no file of at most 4 MiB".to_owned(), "move it elsewhere");
    }
    let shared = metadata.permissions().mode() & 0o044 != 0;
    match std::fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => Some(File { text: Ok(text), shared }),
        Ok(Err(e)) => {
            let valid = e.utf8_error().valid_up_to();
            let (line, column) = position(&String::from_utf8_lossy(&e.as_bytes()[..valid]), valid);
            let problem = Problem::of(&shown, Severity::Error, "is not UTF-8 here", "save the file as UTF-8");
            Some(File { text: Err(Problem { line, column, ..problem }), shared })
        }
        Err(e) => failed(format!("cannot be read: {e}"), "make it readable"),
    }
}
