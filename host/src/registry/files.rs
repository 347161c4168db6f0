//! Takes a dropped file: opens it safely, copies it to a private path named by its content, looks into the copy.
//!
//! Invariant: only the private copy is ever looked into and loaded, so nothing changes between the check and the use.
//! Invariant: what another user of the machine could have written is refused.

use super::elf::{OfFile, inspect};
use super::note::{Note, parse};
use std::fmt::Write as _;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The size of the largest library that is taken.
pub(super) const LIBRARY_OCTETS_MAX: u64 = 64 << 20;

/// What identifies the content of a file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    pub(super) fn of(meta: &Metadata) -> Fingerprint {
        Fingerprint {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// A library that passed every check that needs none of its code.
#[derive(Debug)]
pub(super) struct Verified {
    pub sha256: String,
    /// Our copy.
    pub path: PathBuf,
    /// At least one.
    pub notes: Vec<Note>,
}

/// Why a file was not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// It changed while it was read: look again later.
    Changing,
    /// In words.
    Rejected(String),
}

impl From<String> for NotTaken {
    fn from(words: String) -> NotTaken {
        NotTaken::Rejected(words)
    }
}

/// Says what is wrong with the plugins directory itself; `None` when nothing is, or when it is not there.
pub(super) fn directory_problem(directory: &Path) -> Option<String> {
    let meta = std::fs::symlink_metadata(directory).ok()?;
    let at = directory.display();
    if !meta.is_dir() {
        return Some(format!("{at} is no directory (a symbolic link is not followed)"));
    }
    permission_problem(&meta).map(|words| format!("the directory {at} {words}"))
}

/// Says who else could have written this.
fn permission_problem(meta: &Metadata) -> Option<String> {
    // SAFETY: `geteuid` has no preconditions and cannot fail.
    let own = unsafe { libc::geteuid() };
    if meta.uid() != 0 && meta.uid() != own {
        return Some(format!("belongs to user {}: give it to root or to the user of this service ({own})", meta.uid()));
    }
    (meta.mode() & 0o022 != 0).then(|| format!("can be written by others (mode {:o}): chmod go-w", meta.mode() & 0o7777))
}

/// Takes the file at `path`, which was seen as `seen`.
pub(super) fn take(path: &Path, seen: Fingerprint, private: &Path) -> Result<Verified, NotTaken> {
    take_if(path, seen, private, |_| true)
}

/// Takes the copy of what was last loaded from a file of this name, if it still is what it was. It is copied and checked
/// like a file that was dropped.
pub(super) fn last_good(name: &str, private: &Path) -> Option<Verified> {
    let text = std::fs::read_to_string(record(name, private)).ok()?;
    let sha256 = text.strip_suffix('\n').filter(|hex| hex.len() == 64 && hex.bytes().all(|octet| octet.is_ascii_hexdigit()))?;
    let copy = private.join(format!("{sha256}.so"));
    let seen = Fingerprint::of(&std::fs::symlink_metadata(&copy).ok()?);
    match take_if(&copy, seen, private, |found| found == sha256) {
        Ok(verified) => Some(verified),
        Err(error) => {
            tracing::warn!(plugin.file = name, plugin.sha256 = sha256, ?error, "the copy of what worked before cannot be used");
            None
        }
    }
}

/// Records what was loaded from a file of this name.
pub(super) fn remember(name: &str, sha256: &str, private: &Path) -> io::Result<()> {
    write_record(&record(name, private), sha256, private)
}

/// Records that the constructors of this content block, and says where. Without the record it is tried again.
pub(super) fn remember_blocked(sha256: &str, private: &Path) -> PathBuf {
    let record = blocked_record(sha256, private);
    if let Err(error) = write_record(&record, sha256, private) {
        tracing::warn!(plugin.sha256 = sha256, %error, "that the constructors of this plugin block could not be recorded");
    }
    record
}

/// Where it is recorded that the constructors of this content block, if it is.
pub(super) fn blocked(sha256: &str, private: &Path) -> Option<PathBuf> {
    Some(blocked_record(sha256, private)).filter(|record| record.exists())
}

fn blocked_record(sha256: &str, private: &Path) -> PathBuf {
    private.join(format!("{sha256}.blocks"))
}

fn write_record(record: &Path, sha256: &str, private: &Path) -> io::Result<()> {
    let part = Temporary(private.join(format!(".{}-{sha256}.part", std::process::id())));
    let _ = std::fs::remove_file(&part.0);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part.0)?;
    file.write_all(format!("{sha256}\n").as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&part.0, record)
}

/// Where the sha256 stands of what was last loaded from a file of this name, which is one word of a path.
fn record(name: &str, private: &Path) -> PathBuf {
    private.join(format!("{name}.last"))
}

/// Takes a file whose sha256 is wanted.
fn take_if(path: &Path, seen: Fingerprint, private: &Path, wanted: impl Fn(&str) -> bool) -> Result<Verified, NotTaken> {
    let failed = |what: &'static str| move |error: io::Error| NotTaken::Rejected(format!("{what}: {error}"));
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(NotTaken::Rejected("it is a symbolic link: put the file itself here".into()));
        }
        Err(error) => return Err(failed("it cannot be read")(error)),
    };
    let meta = file.metadata().map_err(failed("it cannot be read"))?;
    if !meta.is_file() {
        return Err(NotTaken::Rejected("it is no regular file".into()));
    }
    if Fingerprint::of(&meta) != seen {
        return Err(NotTaken::Changing);
    }
    if let Some(words) = permission_problem(&meta) {
        return Err(NotTaken::Rejected(format!("it {words}")));
    }
    if meta.size() > LIBRARY_OCTETS_MAX {
        return Err(NotTaken::Rejected(format!("it is larger than {} MiB", LIBRARY_OCTETS_MAX >> 20)));
    }
    make_private(private)?;
    let copy = Temporary::new(private, meta.ino());
    let (written, sha256) = copy_hashing(&file, &copy.0).map_err(failed("it cannot be copied"))?;
    let after = file.metadata().map_err(failed("it cannot be read"))?;
    if Fingerprint::of(&after) != seen {
        return Err(NotTaken::Changing);
    }
    if !wanted(&sha256) {
        return Err(NotTaken::Rejected(format!("it has changed: its sha256 is {sha256}")));
    }
    let notes = parse(&inspect(&OfFile(&written, meta.size()))?)?;
    let path = private.join(format!("{sha256}.so"));
    written.sync_all().map_err(failed("its copy cannot be written"))?;
    std::fs::rename(&copy.0, &path).map_err(failed("its copy cannot be kept"))?;
    File::open(private).and_then(|directory| directory.sync_all()).map_err(failed("its copy cannot be written"))?;
    Ok(Verified { sha256, path, notes })
}

/// Makes the private directory, or says why the one that is there is not private.
fn make_private(private: &Path) -> Result<(), String> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(private);
    let at = private.display();
    made.map_err(|error| format!("the private directory {at} cannot be made: {error}"))?;
    let meta = std::fs::symlink_metadata(private).map_err(|error| format!("{at}: {error}"))?;
    // SAFETY: as in `permission_problem`.
    if meta.uid() != unsafe { libc::geteuid() } || meta.mode() & 0o077 != 0 || !meta.is_dir() {
        return Err(format!("the private directory {at} is not ours alone: chmod 700 it, or remove it"));
    }
    Ok(())
}

/// A file that goes away unless it was renamed.
struct Temporary(PathBuf);

impl Temporary {
    fn new(private: &Path, inode: u64) -> Temporary {
        let path = private.join(format!(".{}-{inode}.part", std::process::id()));
        // One that a process of the same number left behind.
        let _ = std::fs::remove_file(&path);
        Temporary(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is not there when it was renamed.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn copy_hashing(from: &File, to: &Path) -> io::Result<(File, String)> {
    let mut copy = OpenOptions::new().read(true).write(true).create_new(true).mode(0o500).open(to)?;
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    let mut limited = from.take(LIBRARY_OCTETS_MAX + 1);
    loop {
        let len = limited.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        context.update(&buffer[..len]);
        copy.write_all(&buffer[..len])?;
    }
    let mut hex = String::with_capacity(64);
    for octet in context.finish().as_ref() {
        write!(hex, "{octet:02x}").expect("a string takes everything");
    }
    Ok((copy, hex))
}
