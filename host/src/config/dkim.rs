//! Private keys of DKIM (RFC 6376, RFC 8463), read when a file is checked and again when a signer is made.
//!
//! Invariant: pure; no text of an error holds any part of a key.

use crate::config::settings::DkimAlgorithm;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::{DkimKey, Ed25519Key, RsaKey, Sha256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// RSA keys below this are refused: RFC 8301 3.2 advises against them, and aws-lc-rs signs with none.
pub const RSA_BITS_MIN: usize = 2048;

/// An Ed25519 private key as PKCS#8 (RFC 8410): this, then the 32 octets of its seed.
pub const ED25519_PKCS8_PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// What is wrong with a key; the text goes on after its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("is no {expected}")]
    No { expected: &'static str },
    #[error("has {bits} bits; use {RSA_BITS_MIN} or more")]
    Short { bits: usize },
    #[error("is encrypted; name one without a passphrase (openssl pkey -in KEY -out PLAIN)")]
    Encrypted,
}

/// Reads a key from the text of its secret.
pub fn parse(algorithm: DkimAlgorithm, secret: &str) -> Result<DkimKey, KeyError> {
    if secret.contains("ENCRYPTED") {
        return Err(KeyError::Encrypted);
    }
    match algorithm {
        DkimAlgorithm::RsaSha256 => rsa(secret),
        DkimAlgorithm::Ed25519Sha256 => ed25519(secret),
    }
}

fn rsa(pem: &str) -> Result<DkimKey, KeyError> {
    let wrong = KeyError::No { expected: "RSA key in PEM (PKCS#1 or PKCS#8)" };
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| wrong)?;
    let bits = rsa_bits(&der).ok_or(wrong)?;
    if bits < RSA_BITS_MIN {
        return Err(KeyError::Short { bits });
    }
    let key = RsaKey::<Sha256>::from_key_der(der).map_err(|_| wrong)?;
    Ok(DkimKey::Rsa(key))
}

fn ed25519(secret: &str) -> Result<DkimKey, KeyError> {
    let wrong = KeyError::No { expected: "Ed25519 key (PEM with PKCS#8, or 32 octets in base64)" };
    let der = match secret.contains("-----BEGIN") {
        true => PrivatePkcs8KeyDer::from_pem_slice(secret.as_bytes()).map_err(|_| wrong)?.secret_pkcs8_der().to_vec(),
        false => {
            let seed = STANDARD.decode(secret.trim()).ok().filter(|seed| seed.len() == 32).ok_or(wrong)?;
            [&ED25519_PKCS8_PREFIX[..], &seed].concat()
        }
    };
    // OpenSSL writes PKCS#8 without the public key, which aws-lc-rs computes.
    let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(&der).map_err(|_| wrong)?;
    Ok(DkimKey::Ed25519(key))
}

/// The size of an RSA key: the modulus is the second number of a PKCS#1 key, which PKCS#8 wraps in its last field.
fn rsa_bits(der: &PrivateKeyDer<'_>) -> Option<usize> {
    let pkcs1 = match der {
        PrivateKeyDer::Pkcs1(key) => key.secret_pkcs1_der(),
        PrivateKeyDer::Pkcs8(key) => {
            let (inside, _) = der_field(key.secret_pkcs8_der(), 0x30)?;
            let (_version, rest) = der_field(inside, 0x02)?;
            let (_algorithm, rest) = der_field(rest, 0x30)?;
            der_field(rest, 0x04)?.0
        }
        _ => return None,
    };
    let (inside, _) = der_field(pkcs1, 0x30)?;
    let (_version, rest) = der_field(inside, 0x02)?;
    let (modulus, _) = der_field(rest, 0x02)?;
    let first = modulus.iter().position(|octet| *octet != 0)?;
    Some((modulus.len() - first) * 8 - modulus[first].leading_zeros() as usize)
}

/// Splits one field of this tag off DER: its content, and what stands behind it.
fn der_field(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let octets = if length < 0x80 { 0 } else { usize::from(length & 0x7f) };
    if found != tag || octets > 4 {
        return None;
    }
    let long = rest.get(..octets)?.iter().fold(0_usize, |sum, octet| (sum << 8) | usize::from(*octet));
    let length = if octets == 0 { usize::from(length) } else { long };
    rest.get(octets..)?.split_at_checked(length)
}
