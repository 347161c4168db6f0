//! `postwarm key`: makes, lists and revokes an organization's API keys.
//!
//! Invariant: a key is printed once, alone on its line on standard output, and stored as its hash.

use crate::config::keys::{self, KeyLine};
use crate::model::name::OrgName;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const OK: i32 = 0;
const FINDING: i32 = 1;
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;

/// Why a command on keys failed.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error("{0}")]
    Name(String),
    #[error("there is no organization `{0}`; add `organizations/{0}.toml` to the configuration folder first")]
    NoOrganization(OrgName),
    #[error("no key of `{0}` begins with `{1}`; `postwarm key list {0}` shows them")]
    NoKey(OrgName, String),
    #[error("`{0}` has {1} keys; say which, as `postwarm key list {0}` shows it")]
    Which(OrgName, usize),
    #[error("cannot read {0}: {1}; run this as a user who may")]
    Read(PathBuf, std::io::Error),
    #[error("cannot write {0}: {1}; run this as a user who may write to its folder")]
    Write(PathBuf, std::io::Error),
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
}

impl KeyError {
    fn code(&self) -> i32 {
        match self {
            KeyError::Name(_) | KeyError::NoOrganization(_) | KeyError::Which(..) => USAGE,
            KeyError::NoKey(..) => FINDING,
            KeyError::Read(..) | KeyError::Write(..) | KeyError::Output(_) => UNAVAILABLE,
        }
    }
}

/// Where to write: keys and lists to `out`, everything else to `err`.
pub struct Output<'a> {
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
}

/// What makes a key: 32 octets of the system's randomness, and the time.
pub struct Fresh {
    pub random: [u8; 32],
    /// Milliseconds since 1970 UTC.
    pub wall_ms: i64,
}

/// Makes a key and prints it. `name` is what its maker calls it, and may be empty. Returns the exit code.
pub fn new(config: &Path, org: &str, name: &str, fresh: &Fresh, to: &mut Output<'_>) -> i32 {
    let made = (|| {
        let org = organization(config, org)?;
        let (_lock, text) = open(config, &org)?;
        let (key, hash) = keys::new_key(&fresh.random);
        let line = KeyLine::new(&key, hash, fresh.wall_ms, name);
        write(&keys::path(config, &org), &keys::with_line(&text, &line), to)?;
        writeln!(to.out, "{key}")?;
        writeln!(to.err, "this key of `{org}` is shown once; a running service takes it within two seconds")?;
        Ok(())
    })();
    finish(made, to)
}

/// Lists an organization's keys: first characters, time and name. Returns the exit code.
pub fn list(config: &Path, org: &str, to: &mut Output<'_>) -> i32 {
    let listed = (|| {
        let org = organization(config, org)?;
        let lines = lines(&read(&keys::path(config, &org))?);
        if lines.is_empty() {
            writeln!(to.err, "`{org}` has no key; make one with `postwarm key new {org}`")?;
        }
        for line in lines {
            let name = line.label.strip_prefix(line.shown()).unwrap_or_default();
            writeln!(to.out, "{}  {} {name}", line.shown(), line.created_at).map(|()| ())?;
        }
        Ok(())
    })();
    finish(listed, to)
}

/// Revokes the key that begins with `which`, or the only one. Returns the exit code.
pub fn revoke(config: &Path, org: &str, which: Option<&str>, to: &mut Output<'_>) -> i32 {
    let revoked = (|| {
        let org = organization(config, org)?;
        let (_lock, text) = open(config, &org)?;
        let of_whole = which.map(keys::KeyHash::of);
        let mut found = lines(&text);
        // A whole key names itself by its hash; its first characters by what is stored of them.
        found
            .retain(|line| which.is_none_or(|which| Some(line.hash) == of_whole || (!which.is_empty() && line.shown().starts_with(which))));
        match found.as_slice() {
            [] => Err(KeyError::NoKey(org, which.unwrap_or_default().to_owned())),
            [line] => {
                write(&keys::path(config, &org), &keys::without(&text, line.hash), to)?;
                writeln!(to.err, "revoked {} of `{org}`; a running service refuses it within two seconds", line.shown())?;
                Ok(())
            }
            many => Err(KeyError::Which(org, many.len())),
        }
    })();
    finish(revoked, to)
}

fn finish(result: Result<(), KeyError>, to: &mut Output<'_>) -> i32 {
    match result {
        Ok(()) => OK,
        Err(error) => {
            // There is nowhere left to say that standard error cannot be written to.
            let _ = writeln!(to.err, "{error}");
            error.code()
        }
    }
}

fn organization(config: &Path, org: &str) -> Result<OrgName, KeyError> {
    let name = OrgName::parse(org).map_err(KeyError::Name)?;
    let toml = config.join("organizations").join(format!("{name}.toml"));
    match std::fs::metadata(&toml) {
        Ok(metadata) if metadata.is_file() => Ok(name),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(KeyError::Read(toml, error)),
        _ => Err(KeyError::NoOrganization(name)),
    }
}

/// Reads the keys file for a change. The lock on the folder keeps two commands from losing each other's line.
fn open(config: &Path, org: &OrgName) -> Result<(File, String), KeyError> {
    let path = config.join("organizations");
    let failed = |error| KeyError::Read(path.clone(), error);
    let folder = File::open(&path).map_err(failed)?;
    folder.lock().map_err(failed)?;
    Ok((folder, read(&keys::path(config, org))?))
}

fn read(path: &Path) -> Result<String, KeyError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(KeyError::Read(path.to_owned(), e)),
    }
}

/// Replaces a keys file, and says where the service may not be able to read it.
fn write(path: &Path, text: &str, to: &mut Output<'_>) -> Result<(), KeyError> {
    if let Some(group) = keys::write(path, text).map_err(|error| KeyError::Write(path.to_owned(), error))? {
        let file = path.display();
        writeln!(
            to.err,
            "{file} could not be given the group {group}, which may read the organization's TOML; run `chgrp {group} {file}`"
        )?;
    }
    Ok(())
}

fn lines(text: &str) -> Vec<KeyLine> {
    keys::parse("", text).0
}

#[cfg(test)]
mod tests {
    use super::{Fresh, Output, list, new, revoke};
    use crate::config::keys::KeyHash;
    use crate::config::tests::Folder;
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    /// Runs a command; returns its exit code, standard output and standard error.
    fn run(command: impl FnOnce(&mut Output<'_>) -> i32) -> (i32, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = command(&mut Output { out: &mut out, err: &mut err });
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn make(folder: &Folder, octet: u8) -> String {
        let fresh = Fresh { random: [octet; 32], wall_ms: 1_764_072_000_000 };
        let (code, out, _) = run(|to| new(folder.dir.path(), "demo", "ci\nrunner", &fresh, to));
        assert_eq!(code, 0);
        out.strip_suffix('\n').unwrap().to_owned()
    }

    #[test]
    fn a_new_key_stands_alone_on_its_line_and_only_its_hash_is_stored() {
        let folder = Folder::demo(&[]);
        let key = make(&folder, 1);
        assert!(key.starts_with("pw_") && key.len() == 46 && !key.contains('\n'), "{key}");
        let path = folder.path("organizations/demo.keys");
        let stored = std::fs::read_to_string(&path).unwrap();
        assert_eq!(stored, format!("{} 2025-11-25T12:00:00Z {} ci runner\n", KeyHash::of(&key), &key[..9]));
    }

    #[test]
    fn whoever_may_read_the_organization_may_read_its_keys() {
        let folder = Folder::demo(&[]);
        let (toml, keys) = (folder.path("organizations/demo.toml"), folder.path("organizations/demo.keys"));
        for (of_toml, of_keys) in [(0o644, 0o644), (0o640, 0o640), (0o600, 0o600), (0o777, 0o664)] {
            std::fs::set_permissions(&toml, Permissions::from_mode(of_toml)).unwrap();
            make(&folder, 1);
            assert_eq!(std::fs::metadata(&keys).unwrap().permissions().mode() & 0o777, of_keys, "{of_toml:o}");
        }
        // Only root may give a file away.
        if std::os::unix::fs::chown(&toml, Some(65_532), Some(65_533)).is_ok() {
            let key = make(&folder, 2);
            assert_eq!(run(|to| revoke(folder.dir.path(), "demo", Some(&key), to)).0, 0);
            let metadata = std::fs::metadata(&keys).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (65_532, 65_533));
        } else {
            eprintln!("skipped: the owner of a keys file, because only root may give a file away");
        }
    }

    #[test]
    fn what_cannot_be_read_or_written_is_named() {
        let folder = Folder::demo(&[]);
        // Root may read everything, but for what is no file.
        std::fs::create_dir(folder.path("organizations/demo.keys")).unwrap();
        let path = folder.path("organizations/demo.keys");
        let fresh = Fresh { random: [0; 32], wall_ms: 0 };
        for (code, _, err) in [run(|to| list(folder.dir.path(), "demo", to)), run(|to| new(folder.dir.path(), "demo", "", &fresh, to))] {
            assert_eq!(code, 69);
            assert!(err.starts_with(&format!("cannot read {}: ", path.display())) && err.contains("; run this as"), "{err}");
        }
    }

    #[test]
    fn a_key_is_revoked_by_its_first_characters_and_the_others_stay() {
        let folder = Folder::demo(&[]);
        let (first, second) = (make(&folder, 1), make(&folder, 200));
        let (code, _, err) = run(|to| revoke(folder.dir.path(), "demo", None, to));
        assert_eq!((code, err.as_str()), (64, "`demo` has 2 keys; say which, as `postwarm key list demo` shows it\n"));
        assert_eq!(run(|to| revoke(folder.dir.path(), "demo", Some(&first[..9]), to)).0, 0);
        let (_, out, _) = run(|to| list(folder.dir.path(), "demo", to));
        assert_eq!(out, format!("{}  2025-11-25T12:00:00Z  ci runner\n", &second[..9]));
        assert_eq!(run(|to| revoke(folder.dir.path(), "demo", Some("pw_nobody"), to)).0, 1);
        assert_eq!(run(|to| revoke(folder.dir.path(), "demo", Some(&second), to)).0, 0);
    }

    #[test]
    fn an_organization_that_is_not_there_gets_no_key() {
        let folder = Folder::demo(&[]);
        let fresh = Fresh { random: [0; 32], wall_ms: 0 };
        for (org, said) in [("nobody", "there is no organization `nobody`"), ("../demo", "is no organization name")] {
            let (code, out, err) = run(|to| new(folder.dir.path(), org, "", &fresh, to));
            assert_eq!((code, out.as_str()), (64, ""));
            assert!(err.contains(said), "{err}");
        }
    }
}
