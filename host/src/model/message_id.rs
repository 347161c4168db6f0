//! Message-IDs and tokens: how a mail that comes back names its delivery without naming anybody.
//!
//! A recipient's Message-ID is `EMAIL.USER.TOKEN@domain`, the same on every attempt; the token is a keyed hash, so that
//! nobody can name a delivery that he did not see. An email's own id is `email-N@domain`.

use crate::model::name::DeliveryKey;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt::Write;

/// The bytes of the secret that tokens are made with.
pub const SECRET_BYTES: usize = 32;

/// Makes and checks tokens.
pub struct Tokens {
    key: hmac::Key,
}

/// What a recipient's Message-ID says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecipientMessageId {
    pub email: i64,
    pub user: i64,
    /// 48 bits of the keyed hash.
    pub token: i64,
}

impl Tokens {
    pub fn new(secret: &[u8; SECRET_BYTES]) -> Tokens {
        Tokens { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// The Message-ID of one delivery, without angle brackets.
    pub fn recipient_message_id(&self, delivery: DeliveryKey, domain: &str) -> String {
        let mac = self.mac(b"message-id", delivery);
        let mut token = [0; 8];
        URL_SAFE_NO_PAD.encode_slice(&mac[..6], &mut token).expect("six octets make eight characters");
        let token = std::str::from_utf8(&token).expect("base64 is ASCII");
        let mut id = String::with_capacity(52 + domain.len());
        write!(id, "{delivery}").expect("a text takes all");
        for part in [".", token, "@", domain] {
            id.push_str(part);
        }
        id
    }

    /// The unsubscribe token of one delivery.
    pub fn unsubscribe(&self, delivery: DeliveryKey) -> String {
        let mut bytes = Vec::with_capacity(40);
        for number in [delivery.org.0, delivery.email.0, delivery.user.0] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.mac(b"unsubscribe", delivery)[..16]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads an unsubscribe token; `None` where it is not one of ours.
    pub fn read_unsubscribe(&self, token: &str) -> Option<DeliveryKey> {
        use crate::model::name::{EmailNumber, OrgId, UserNumber};
        let bytes = URL_SAFE_NO_PAD.decode(token).ok().filter(|b| b.len() == 40)?;
        let number = |at: usize| bytes[at..at + 8].try_into().map(i64::from_be_bytes).ok();
        let delivery = DeliveryKey { org: OrgId(number(0)?), email: EmailNumber(number(8)?), user: UserNumber(number(16)?) };
        let mac = self.mac(b"unsubscribe", delivery);
        aws_lc_rs::constant_time::verify_slices_are_equal(&mac[..16], &bytes[24..]).ok()?;
        Some(delivery)
    }

    fn mac(&self, purpose: &[u8], delivery: DeliveryKey) -> [u8; 32] {
        let mut named = Vec::with_capacity(40);
        named.extend_from_slice(purpose);
        for number in [delivery.org.0, delivery.email.0, delivery.user.0] {
            named.extend_from_slice(&number.to_be_bytes());
        }
        let mut out = [0; 32];
        // In one call: each costs as much as hashing what it is given.
        out.copy_from_slice(hmac::sign(&self.key, &named).as_ref());
        out
    }
}

impl RecipientMessageId {
    /// Reads a recipient's Message-ID, with or without angle brackets.
    pub fn parse(text: &str) -> Option<RecipientMessageId> {
        let text = text.trim().trim_start_matches('<').trim_end_matches('>');
        let (left, _) = text.split_once('@')?;
        let mut parts = left.split('.');
        let (email, user, token) = (parts.next()?, parts.next()?, parts.next()?);
        let token = URL_SAFE_NO_PAD.decode(token).ok().filter(|b| b.len() == 6)?;
        let token = token.iter().fold(0_i64, |sum, byte| (sum << 8) | i64::from(*byte));
        parts.next().is_none().then_some(())?;
        Some(RecipientMessageId { email: positive(email)?, user: positive(user)?, token })
    }
}

/// The Message-ID of an email as a whole, without angle brackets.
pub fn email_message_id(email: i64, domain: &str) -> String {
    format!("email-{email}@{domain}")
}

/// Reads an email's own Message-ID, with or without angle brackets: its number and its domain.
pub fn read_email_message_id(text: &str) -> Option<(i64, &str)> {
    let text = text.trim().trim_start_matches('<').trim_end_matches('>');
    let (left, domain) = text.split_once('@')?;
    Some((positive(left.strip_prefix("email-")?)?, domain))
}

fn positive(digits: &str) -> Option<i64> {
    let plain = !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::{EmailNumber, OrgId, UserNumber};

    fn delivery(org: i64, email: i64, user: i64) -> DeliveryKey {
        DeliveryKey { org: OrgId(org), email: EmailNumber(email), user: UserNumber(user) }
    }

    #[test]
    fn a_recipients_message_id_reads_back_and_is_stable() {
        let tokens = Tokens::new(&[7; 32]);
        let id = tokens.recipient_message_id(delivery(1, 23, 456), "acme.example");
        assert_eq!(id, tokens.recipient_message_id(delivery(1, 23, 456), "acme.example"));
        let read = RecipientMessageId::parse(&format!("<{id}>")).expect("ours");
        assert_eq!((read.email, read.user), (23, 456));
    }

    #[test]
    fn tokens_are_those_of_earlier_versions() {
        let tokens = Tokens::new(&[7; 32]);
        let delivery = delivery(1, 23, 456);
        assert_eq!(tokens.recipient_message_id(delivery, "acme.example"), "23.456.t_TMm5_u@acme.example");
        assert_eq!(tokens.unsubscribe(delivery), "AAAAAAAAAAEAAAAAAAAAFwAAAAAAAAHIbTNf4MydWgAYGsUW_trHIw");
    }

    #[test]
    fn the_token_differs_by_organization_and_by_secret() {
        let (a, b) = (Tokens::new(&[7; 32]), Tokens::new(&[8; 32]));
        let ids = [
            a.recipient_message_id(delivery(1, 2, 3), "x.example"),
            a.recipient_message_id(delivery(2, 2, 3), "x.example"),
            b.recipient_message_id(delivery(1, 2, 3), "x.example"),
        ];
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    }

    #[test]
    fn an_unsubscribe_token_with_any_bit_flipped_names_nobody() {
        let tokens = Tokens::new(&[7; 32]);
        let token = tokens.unsubscribe(delivery(1, 2, 3));
        assert_eq!(tokens.read_unsubscribe(&token), Some(delivery(1, 2, 3)));
        let bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64");
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(tokens.read_unsubscribe(&URL_SAFE_NO_PAD.encode(other)), None, "bit {bit}");
        }
    }

    #[test]
    fn an_emails_own_id_reads_back_with_and_without_brackets() {
        assert_eq!(read_email_message_id("<email-12@a.example>"), Some((12, "a.example")));
        assert_eq!(read_email_message_id("email-12@a.example"), Some((12, "a.example")));
        for bad in ["email-@a", "email-012@a", "email-x@a", "1.2.abc@a", ""] {
            assert_eq!(read_email_message_id(bad), None, "{bad}");
        }
    }
}
