//! Secrets: from where they are to what they are, when an instance is made.
//!
//! Invariant: no error shows a secret's value.

use crate::config::settings::SecretRef;
use aws_lc_rs::digest;
use postwarm_plugin_api::Secret;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Looks up an environment variable.
pub type Env<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Octets of a secret at most; a file beyond it is a mistake.
const SECRET_OCTETS_MAX: u64 = 64 * 1024;

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("environment variable `{0}` is not set; set it, or name another")]
    Unset(String),
    #[error("cannot read `{0}` ({1}); put a readable file there, or name another")]
    Unreadable(PathBuf, std::io::Error),
    #[error("`{0}` holds no text of at most {SECRET_OCTETS_MAX} octets; name the file that holds the secret")]
    NoText(PathBuf),
}

/// Tells one content of a secret file from another; whoever has it has not the secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub fn of(secret: &Secret) -> Fingerprint {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, secret.expose().as_bytes()).as_ref());
        Fingerprint(sha256)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A short secret could be guessed from it.
        f.write_str("Fingerprint(***)")
    }
}

/// Reads one secret. The newline at the end of a file is no part of it.
pub fn resolve(reference: &SecretRef, env: &Env<'_>) -> Result<Secret, SecretError> {
    match reference {
        SecretRef::Env(name) => match env(name) {
            Some(value) if !value.is_empty() => Ok(Secret::new(value)),
            _ => Err(SecretError::Unset(name.clone())),
        },
        SecretRef::File { path, .. } => {
            let unreadable = |e| SecretError::Unreadable(path.clone(), e);
            let metadata = std::fs::metadata(path).map_err(unreadable)?;
            if !metadata.is_file() || metadata.len() > SECRET_OCTETS_MAX {
                return Err(SecretError::NoText(path.clone()));
            }
            let octets = std::fs::read(path).map_err(unreadable)?;
            let text = String::from_utf8(octets).map_err(|_| SecretError::NoText(path.clone()))?;
            let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
            if text.is_empty() { Err(SecretError::NoText(path.clone())) } else { Ok(Secret::new(text)) }
        }
        SecretRef::Literal(secret) => Ok(secret.clone()),
    }
}

/// Reads all secrets of an instance, or says what is wrong with each.
pub fn resolve_secrets(
    references: &BTreeMap<String, SecretRef>,
    env: &Env<'_>,
) -> Result<BTreeMap<String, Secret>, Vec<(String, SecretError)>> {
    let mut secrets = BTreeMap::new();
    let mut errors = Vec::new();
    for (key, reference) in references {
        match resolve(reference, env) {
            Ok(secret) => drop(secrets.insert(key.clone(), secret)),
            Err(error) => errors.push((key.clone(), error)),
        }
    }
    if errors.is_empty() { Ok(secrets) } else { Err(errors) }
}
