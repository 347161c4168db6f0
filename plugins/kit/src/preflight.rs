//! Refuses what must not or cannot be sent to this server, before a command of it is written.
//!
//! Invariant: no reply is made up; no server was asked, and the outcome says so.

use crate::session::Capabilities;
use postwarm_plugin_api::{Cause, Message, Outcome};

/// The longest address that goes into a command (RFC 5321 4.5.3.1.3 says 256 for a path; some servers take more).
const ADDRESS_OCTETS_MAX: usize = 320;

/// Returns why `message` cannot go to a server with these capabilities; `None` where it can.
pub fn refuse(message: &Message, capabilities: &Capabilities) -> Option<Outcome> {
    missing(message, capabilities).map(|detail| Outcome::NotAttempted { cause: Cause::Unsupported, detail })
}

fn missing(message: &Message, capabilities: &Capabilities) -> Option<String> {
    let (from, to) = (&*message.envelope_from, &*message.envelope_to);
    if !(from.is_empty() || is_safe_address(from)) {
        return Some("the envelope sender is no address that a command can carry".to_owned());
    }
    if !is_safe_address(to) {
        return Some("the envelope recipient is no address that a command can carry".to_owned());
    }
    if !(from.is_ascii() && to.is_ascii() || message.smtputf8) {
        return Some("an address is not ASCII, and the message does not say that it needs SMTPUTF8".to_owned());
    }
    if message.smtputf8 && !capabilities.smtputf8 {
        return Some("the message needs SMTPUTF8 (an address is not ASCII before its `@`), which the server does not offer".to_owned());
    }
    if message.eight_bit && !capabilities.eight_bit_mime {
        return Some("the content has 8-bit octets, and the server does not offer 8BITMIME".to_owned());
    }
    let octets = message.size() as u64;
    let max = capabilities.size_octets_max.filter(|max| octets > *max)?;
    Some(format!("the message has {octets} octets, and the server takes {max}"))
}

/// Tells whether an address can stand between the angle brackets of a command without ending it.
pub fn is_safe_address(address: &str) -> bool {
    let mut quoted = false;
    let mut escaped = false;
    for character in address.chars() {
        if character.is_control() || matches!(character, '<' | '>') || (character == ' ' && !quoted) {
            return false;
        }
        match character {
            '"' if !escaped => quoted = !quoted,
            '\\' if quoted && !escaped => {
                escaped = true;
                continue;
            }
            _ => {}
        }
        escaped = false;
    }
    !address.is_empty() && address.len() <= ADDRESS_OCTETS_MAX && !quoted && address.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_cannot_end_its_command() {
        for bad in [
            "",
            "no-at",
            "a@b\r\nRCPT TO:<c@d>",
            "a@b>\u{0}",
            "a b@c",
            "a@b> SIZE=1",
            "<a@b>",
            "\"a\nb\"@c",
            "\"a@b",
            "\"a\\\"@b c\"@d e",
            "a@b\u{7f}",
        ] {
            assert!(!is_safe_address(bad), "{bad:?}");
        }
        for good in ["a@b", "\"a b\"@c", "\"a\\\" b\"@c", "a+b@c.example", "\u{f6}@b\u{fc}cher.example"] {
            assert!(is_safe_address(good), "{good:?}");
        }
        assert!(!is_safe_address(&format!("{}@b", "a".repeat(400))));
    }

    #[test]
    fn a_message_that_the_server_cannot_take_is_refused_in_words() {
        let plain = Message {
            delivery: "d".into(),
            envelope_from: "".into(),
            envelope_to: "b@y.example".into(),
            header: "Subject: x\r\n\r\n".into(),
            body: "hi\r\n".into(),
            eight_bit: false,
            smtputf8: false,
            mark: None,
        };
        let none = Capabilities::default();
        assert_eq!(refuse(&plain, &none), None);
        let words = |message: &Message, capabilities: &Capabilities| match refuse(message, capabilities) {
            Some(Outcome::NotAttempted { cause: Cause::Unsupported, detail }) => detail,
            other => panic!("{other:?}"),
        };
        let utf8 = Message { smtputf8: true, ..plain.clone() };
        assert!(words(&utf8, &none).contains("SMTPUTF8 (an address"));
        let offered = Capabilities { smtputf8: true, ..none.clone() };
        assert_eq!(refuse(&utf8, &offered), None);
        let unflagged = Message { envelope_to: "\u{f6}@y.example".into(), ..plain.clone() };
        assert!(words(&unflagged, &offered).contains("does not say"));
        let eight_bit = Message { eight_bit: true, ..plain.clone() };
        assert!(words(&eight_bit, &none).contains("8BITMIME"));
        let small = Capabilities { size: true, size_octets_max: Some(17), ..none.clone() };
        assert_eq!(words(&plain, &small), "the message has 18 octets, and the server takes 17");
        let injected = Message { envelope_to: "b@y>\r\nDATA".into(), ..plain.clone() };
        assert!(words(&injected, &none).contains("recipient"));
        let injected = Message { envelope_from: "b@y>\r\nDATA".into(), ..plain };
        assert!(words(&injected, &none).contains("sender"));
    }
}
