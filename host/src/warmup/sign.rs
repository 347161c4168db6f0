//! DKIM (RFC 6376, RFC 8463): signs a rendered message with the key whose domain covers its From domain.
//!
//! Invariant: keys stay inside a `Signer`, and none is ever printed. The signature covers the whole body; the fields that
//! receivers trust are signed once more than they stand, so that nobody can add another.

mod relaxed;

pub use relaxed::body_hash;

use crate::config::dkim::{self, KeyError};
use crate::config::settings::{Dkim, DkimAlgorithm, SecretRef};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::{DkimKey, SigningKey};
use std::io::Write as _;

/// The fields that are signed; each is named twice, and so once more than it stands in the message.
const SIGNED: [&str; 12] = [
    "From",
    "Reply-To",
    "Subject",
    "Date",
    "To",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "Feedback-ID",
];

/// Characters of a signature on one line.
const LINE_MAX: usize = 72;

/// The keys of one organization.
pub struct Signer {
    keys: Vec<Key>,
}

struct Key {
    domain: String,
    key: DkimKey,
    /// The signature's field up to its time, the same for all messages.
    start: String,
}

/// A `[[dkim]]` entry that cannot be used. No text holds any part of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    #[error("dkim key of `{domain}` cannot be read: {reason}")]
    Secret { domain: String, reason: String },
    #[error("dkim key of `{domain}` {problem}")]
    Key { domain: String, problem: KeyError },
}

/// A message could not be signed, and so is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the message cannot be signed for `{domain}`: {reason}")]
pub struct SignError {
    pub domain: String,
    pub reason: String,
}

impl Signer {
    /// Reads the keys of all entries. `resolve` reads a secret and says in words why it cannot.
    pub fn new(entries: &[Dkim], resolve: impl Fn(&SecretRef) -> Result<String, String>) -> Result<Signer, SignerError> {
        let mut signer = Signer { keys: Vec::with_capacity(entries.len()) };
        for entry in entries {
            let domain = &entry.domain;
            let secret = resolve(&entry.key).map_err(|reason| SignerError::Secret { domain: domain.clone(), reason })?;
            let key = dkim::parse(entry.algorithm, &secret).map_err(|problem| SignerError::Key { domain: domain.clone(), problem })?;
            signer.keys.push(Key { domain: domain.clone(), key, start: start(entry) });
        }
        Ok(signer)
    }

    /// Signs a message; answers the header lines to put before it, or `None` where no key covers the domain of From.
    /// `body_hash` is asked for the [`body_hash`] where there is one. Takes up to a millisecond for RSA.
    pub fn sign(
        &self,
        from_domain: &str,
        header: &[u8],
        body_hash: &dyn Fn() -> [u8; 32],
        now_ms: i64,
    ) -> Result<Option<Vec<u8>>, SignError> {
        let Some(key) = self.key_for(from_domain) else { return Ok(None) };
        let mut lines = Vec::with_capacity(1_024);
        // A Vec takes every write.
        let _ = write!(lines, "{}{}; bh={};\r\n\tb=", key.start, now_ms.div_euclid(1_000), STANDARD.encode(body_hash()));
        let signed = key.key.sign(&signed(header, &lines)[..]);
        let signature = STANDARD.encode(signed.map_err(|e| SignError { domain: key.domain.clone(), reason: e.to_string() })?);
        for (index, line) in signature.as_bytes().chunks(LINE_MAX).enumerate() {
            lines.extend_from_slice(if index > 0 { b"\r\n\t" } else { b"" });
            lines.extend_from_slice(line);
        }
        lines.extend_from_slice(b"\r\n");
        Ok(Some(lines))
    }

    /// The key whose domain is that of From, else the nearest above it.
    fn key_for(&self, from_domain: &str) -> Option<&Key> {
        let from_domain = from_domain.to_ascii_lowercase();
        let covers = |key: &&Key| from_domain.strip_suffix(&key.domain).is_some_and(|left| left.is_empty() || left.ends_with('.'));
        // The first of equals wins, as the file is read from the top.
        self.keys.iter().filter(covers).rev().max_by_key(|key| key.domain.len())
    }
}

fn start(entry: &Dkim) -> String {
    let algorithm = match entry.algorithm {
        DkimAlgorithm::RsaSha256 => "rsa-sha256",
        DkimAlgorithm::Ed25519Sha256 => "ed25519-sha256",
    };
    // A pair of names a line: far shorter than a line may be.
    let names = SIGNED.map(|name| format!("{name}:{name}")).join(":\r\n\t");
    let (domain, selector) = (&entry.domain, &entry.selector);
    format!("DKIM-Signature: v=1; a={algorithm}; c=relaxed/relaxed;\r\n\td={domain};\r\n\ts={selector};\r\n\th={names};\r\n\tt=")
}

/// What is signed (RFC 6376 3.7): the fields, of each name the last one first, and the signature's own so far.
fn signed(header: &[u8], signature: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(header.len() + signature.len());
    let fields: Vec<_> = relaxed::fields(header).collect();
    for name in SIGNED {
        let of_name = fields.iter().rev().filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()));
        of_name.take(2).for_each(|(_, field)| relaxed::push_field(&mut out, field));
    }
    relaxed::push_field(&mut out, signature);
    // The last line has no end.
    out.truncate(out.len() - 2);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use mail_auth::common::parse::TxtRecordParser;
    use mail_auth::common::verify::DomainKey;
    use mail_auth::hickory_resolver::config::{ResolverConfig, ResolverOpts};
    use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};
    use std::borrow::Borrow;
    use std::hash::Hash;
    use std::sync::Arc;

    const HEADER: &[u8] =
        b"From: <a@mail.acme.example>\r\nSubJect: Hi  there \t\r\n\tand  here\r\nTo: <b@example.com>\r\nDate: Wed, 25 Nov 2026 12:11:12 +0000\r\n\
          Message-ID: <1.2.x@acme.example>\r\nContent-Type: text/plain\r\n\r\n";
    const BODY: &[u8] = b"Hello \r\n\r\n. \r\n\r\n";

    const NOW: i64 = 1_700_000_000_999;

    /// The one DNS record that a verifier sees.
    struct Record(Arc<DomainKey>);

    impl ResolverCache<Box<str>, Txt> for Record {
        fn get<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<Txt>
        where
            Box<str>: Borrow<Q>,
        {
            Some(Txt::DomainKey(self.0.clone()))
        }

        fn remove<Q: Hash + Eq + ?Sized>(&self, _: &Q) -> Option<Txt>
        where
            Box<str>: Borrow<Q>,
        {
            None
        }

        fn insert(&self, _: Box<str>, _: Txt, _: std::time::Instant) {}
    }

    fn entry(domain: &str, algorithm: DkimAlgorithm) -> Dkim {
        Dkim { domain: domain.to_owned(), selector: "s1".to_owned(), algorithm, key: SecretRef::Env("KEY".to_owned()) }
    }

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    fn signer(algorithm: DkimAlgorithm, secret: &str) -> Result<Signer, SignerError> {
        Signer::new(&[entry("acme.example", algorithm)], |_| Ok(secret.to_owned()))
    }

    fn rsa_key() -> (String, Vec<u8>) {
        let key = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).expect("generated");
        let der: Pkcs8V1Der<'static> = key.as_der().expect("encodes");
        (pem("PRIVATE KEY", der.as_ref()), key.public_key().as_ref().to_vec())
    }

    async fn verify(message: &[u8], record: &str) -> Vec<DkimResult> {
        let record = Record(Arc::new(DomainKey::parse(record.as_bytes()).expect("a record")));
        let authenticator = MessageAuthenticator::new(ResolverConfig::default(), ResolverOpts::default()).expect("built");
        let message = AuthenticatedMessage::parse(message).expect("a message");
        let outputs = authenticator.verify_dkim(Parameters::new(&message).with_txt_cache(&record)).await;
        outputs.iter().map(|output| output.result().clone()).collect()
    }

    async fn check(signer: &Signer, record: &str) {
        let lines = signer.sign("mail.acme.example", HEADER, &|| body_hash(BODY), NOW).expect("signs").expect("has a key");
        assert!(lines.ends_with(b"\r\n") && lines.split(|b| *b == b'\n').all(|line| line.len() <= 998));
        let signed = [&lines[..], HEADER, BODY].concat();
        assert_eq!(verify(&signed, record).await, [DkimResult::Pass]);
        // Nobody adds a second From, nor a Reply-To that was not there, nor changes a word.
        for (from, to) in [("SubJect", "From: <x@y.example>\r\nSubject"), ("To: ", "Reply-To: <x@y>\r\nTo: "), ("Hello", "Hullo")] {
            let forged = String::from_utf8(signed.clone()).expect("ascii").replacen(from, to, 1);
            assert_ne!(verify(forged.as_bytes(), record).await, [DkimResult::Pass], "{to}");
        }
    }

    #[tokio::test]
    async fn an_rsa_signature_verifies_and_no_field_can_be_added() {
        let (secret, public) = rsa_key();
        let signer = signer(DkimAlgorithm::RsaSha256, &secret).expect("a key");
        check(&signer, &format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(public))).await;
    }

    #[tokio::test]
    async fn an_ed25519_signature_verifies_from_pem_and_from_a_seed() {
        let seed = [9; 32];
        let der = [&dkim::ED25519_PKCS8_PREFIX[..], &seed].concat();
        let public = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a key").public_key().as_ref().to_vec();
        for secret in [STANDARD.encode(seed), pem("PRIVATE KEY", &der)] {
            let signer = signer(DkimAlgorithm::Ed25519Sha256, &secret).expect("a key");
            check(&signer, &format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(&public))).await;
        }
    }

    #[test]
    fn the_key_of_the_nearest_domain_signs_and_other_domains_stay_unsigned() {
        let entries = ["example.org", "acme.example", "mail.acme.example"].map(|domain| entry(domain, DkimAlgorithm::Ed25519Sha256));
        let signer = Signer::new(&entries, |_| Ok(STANDARD.encode([1; 32]))).expect("keys");
        let domain = |from: &str| signer.key_for(from).map(|key| key.domain.as_str());
        assert_eq!(domain("x.Mail.acme.example"), Some("mail.acme.example"));
        assert_eq!(domain("acme.example"), Some("acme.example"));
        assert_eq!(domain("notacme.example"), None);
        assert_eq!(signer.sign("notacme.example", HEADER, &|| [0; 32], NOW), Ok(None));
    }

    /// PKCS#1 with a modulus of this size and nothing else of use.
    fn hollow_rsa(bits: usize) -> String {
        let octets = bits / 8;
        let field = |tag: u8, content: &[u8]| [&[tag, 0x82, (content.len() >> 8) as u8, content.len() as u8][..], content].concat();
        let modulus = [vec![0], vec![0xff; octets]].concat();
        pem("RSA PRIVATE KEY", &field(0x30, &[field(2, &[0]), field(2, &modulus), field(2, &[3])].concat()))
    }

    #[test]
    fn short_rsa_keys_and_what_is_no_key_are_refused_in_words() {
        let error = |secret: &str| signer(DkimAlgorithm::RsaSha256, secret).err().map(|e| e.to_string()).unwrap_or_default();
        for bits in [512, 1024, 2040] {
            assert_eq!(error(&hollow_rsa(bits)), format!("dkim key of `acme.example` has {bits} bits; use 2048 or more"));
        }
        assert!(error(&pem("ENCRYPTED PRIVATE KEY", b"x")).contains("is encrypted; name one without a passphrase"));
        assert_eq!(error("secret"), "dkim key of `acme.example` is no RSA key in PEM (PKCS#1 or PKCS#8)");
        assert!(signer(DkimAlgorithm::RsaSha256, &hollow_rsa(2048)).is_err(), "it is hollow");
        let seed = signer(DkimAlgorithm::Ed25519Sha256, "c2hvcnQ=").err().expect("refused");
        assert!(!seed.to_string().contains("c2hvcnQ"), "{seed}");
        let missing = Signer::new(&[entry("a.example", DkimAlgorithm::RsaSha256)], |_| Err("KEY is not set".to_owned()));
        assert_eq!(missing.err().map(|e| e.to_string()), Some("dkim key of `a.example` cannot be read: KEY is not set".to_owned()));
    }
}
