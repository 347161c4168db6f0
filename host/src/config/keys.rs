//! API keys: what a key is, the file of hashes beside an organization's TOML, and who presents which.
//!
//! Invariant: a key itself is shown once, when it is made; only its hash is stored, compared in constant time.

use crate::config::problem::{Problem, Severity};
use crate::model::name::OrgName;
use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// What every key begins with.
const PREFIX: &str = "pw_";
/// Characters of a key that are stored, so that a person can tell keys apart.
const SHOWN: usize = 9;

/// The SHA-256 of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    pub fn of(key: &str) -> KeyHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
        KeyHash(hash)
    }

    fn parse(hex: &str) -> Option<KeyHash> {
        let digits = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let mut hash = [0; 32];
        for (i, octet) in hash.iter_mut().enumerate() {
            *octet = u8::from_str_radix(digits.then(|| &hex[2 * i..2 * i + 2])?, 16).ok()?;
        }
        Some(KeyHash(hash))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(***)")
    }
}

/// Makes a key from 32 random octets: `pw_` and their base64url.
pub fn new_key(random: &[u8; 32]) -> (String, KeyHash) {
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let hash = KeyHash::of(&key);
    (key, hash)
}

/// One line of a keys file: `sha256-hex created-at label`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyLine {
    pub hash: KeyHash,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// The key's first characters, and what its maker calls it.
    pub label: String,
}

impl KeyLine {
    /// Describes a new key. `name` is one line.
    pub fn new(key: &str, hash: KeyHash, wall_ms: i64, name: &str) -> KeyLine {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(wall_ms.max(0) as u64);
        let shown = key.get(..SHOWN).unwrap_or(key);
        let label = format!("{shown} {}", name.split_whitespace().collect::<Vec<_>>().join(" "));
        KeyLine { hash, created_at: humantime::format_rfc3339_seconds(at).to_string(), label: label.trim().to_owned() }
    }

    /// The key's first characters.
    pub fn shown(&self) -> &str {
        self.label.split(' ').next().unwrap_or_default()
    }
}

impl fmt::Display for KeyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.hash, self.created_at, self.label)
    }
}

/// Reads a keys file. A line that is none is reported and lets nobody in; the others count.
pub fn parse(file: &str, text: &str) -> (Vec<KeyLine>, Vec<Problem>) {
    let mut lines = Vec::new();
    let mut problems = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')) {
        let mut words = line.splitn(3, ' ');
        let parsed = words.next().and_then(KeyHash::parse).zip(words.next());
        match parsed.filter(|(_, at)| humantime::parse_rfc3339(at).is_ok()) {
            Some((hash, at)) => {
                lines.push(KeyLine { hash, created_at: at.to_owned(), label: words.next().unwrap_or_default().trim().to_owned() });
            }
            None => {
                let problem =
                    Problem::of(file, Severity::Error, "is no line of a keys file", "remove it, and make a key with `postwarm key new`");
                problems.push(Problem { line: number + 1, column: 1, ..problem });
            }
        }
    }
    (lines, problems)
}

/// Returns a keys file's text with one more line.
pub fn with_line(text: &str, line: &KeyLine) -> String {
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{gap}{line}\n")
}

/// Returns a keys file's text without the lines of a key.
pub fn without(text: &str, hash: KeyHash) -> String {
    let is_of = |line: &str| line.split(' ').next().and_then(KeyHash::parse) == Some(hash);
    text.lines().filter(|line| !is_of(line)).map(|line| format!("{line}\n")).collect()
}

/// Where an organization's keys are.
pub fn path(config_dir: &Path, org: &OrgName) -> PathBuf {
    config_dir.join("organizations").join(format!("{org}.keys"))
}

/// Replaces a keys file at once: whoever reads it sees the old or the new one. It holds hashes alone, and whoever may read
/// the organization's TOML beside it may read it: it gets that file's mode and group, and its owner where the caller may
/// give that. Returns the group that it should have and could not be given, where that keeps readers out.
pub fn write(path: &Path, text: &str) -> std::io::Result<Option<u32>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        // A file of that name is left over from a process that died.
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        let group = liken(&file, &path.with_extension("toml"))?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        Ok(group)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Gives a file to whoever may read the other one. Returns the group that could not be given and is needed.
fn liken(file: &File, other: &Path) -> std::io::Result<Option<u32>> {
    let Ok(other) = std::fs::metadata(other) else { return Ok(None) };
    // Only root may give a file away; a group may be given by its members.
    let given = fchown(file, Some(other.uid()), Some(other.gid())).or_else(|_| fchown(file, None, Some(other.gid())));
    // Whoever may write a configuration may write its keys, but never everybody.
    file.set_permissions(Permissions::from_mode(other.mode() & 0o664))?;
    let by_group_alone = other.mode() & 0o044 == 0o040;
    Ok(given.err().filter(|_| by_group_alone).map(|_| other.gid()))
}

/// All keys, and whose they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing(Vec<(KeyHash, OrgName)>);

impl KeyRing {
    pub fn new(keys: impl IntoIterator<Item = (KeyHash, OrgName)>) -> KeyRing {
        KeyRing(keys.into_iter().collect())
    }

    /// Returns whose key was presented. How long it takes does not depend on the key.
    pub fn organization(&self, presented: &str) -> Option<OrgName> {
        let hash = KeyHash::of(presented);
        let mut found = None;
        for (known, org) in &self.0 {
            if constant_time::verify_slices_are_equal(&known.0, &hash.0).is_ok() {
                found = Some(org);
            }
        }
        found.cloned()
    }
}
