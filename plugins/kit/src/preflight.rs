//! Refuses what must not or cannot be sent to this server, before a command of it is written.
//!
//! Invariant: a synthetic reply says in words that it is this client's own.

use crate::session::Capabilities;
use postwarm_plugin_api::{EnhancedCode, Fault, Message, Outcome, Reply};

/// The longest address that goes into a command (RFC 5321 4.5.3.1.3 says 256 for a path; some servers take more).
const ADDRESS_OCTETS_MAX: usize = 320;

/// Returns why `message` cannot go to a server with these capabilities; `None` where it can.
pub fn refuse(message: &Message, capabilities: &Capabilities) -> Option<Outcome> {
    let (from, to) = (&*message.envelope_from, &*message.envelope_to);
    if !(from.is_empty() || is_safe_address(from)) {
        return Some(rejected(553, EnhancedCode(5, 1, 7), Fault::Account, "not sent: the envelope sender is no address"));
    }
    if !is_safe_address(to) {
        return Some(rejected(553, EnhancedCode(5, 1, 3), Fault::Recipient, "not sent: the envelope recipient is no address"));
    }
    let needs_smtputf8 = message.smtputf8 || !from.is_ascii() || !to.is_ascii();
    if needs_smtputf8 && !(capabilities.smtputf8 && message.smtputf8) {
        let text = "not sent: the message needs SMTPUTF8, which the server does not offer";
        return Some(rejected(553, EnhancedCode(5, 6, 7), Fault::Recipient, text));
    }
    if message.eight_bit && !capabilities.eight_bit_mime {
        let text = "not sent: the content has 8-bit octets, and the server does not offer 8BITMIME";
        return Some(rejected(554, EnhancedCode(5, 6, 3), Fault::Content, text));
    }
    let octets = message.size() as u64;
    match capabilities.size_octets_max {
        Some(max) if octets > max => {
            let text = format!("not sent: the message has {octets} octets, and the server takes {max}");
            Some(rejected(552, EnhancedCode(5, 3, 4), Fault::Content, text))
        }
        _ => None,
    }
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

fn rejected(code: u16, enhanced: EnhancedCode, fault: Fault, text: impl Into<String>) -> Outcome {
    Outcome::Rejected { reply: Reply { code, enhanced: Some(enhanced), text: text.into() }, fault }
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
        };
        let none = Capabilities::default();
        assert_eq!(refuse(&plain, &none), None);
        let code = |message: &Message, capabilities: &Capabilities| match refuse(message, capabilities) {
            Some(Outcome::Rejected { reply, fault }) => (reply.code, reply.enhanced.unwrap().to_string(), fault),
            other => panic!("{other:?}"),
        };
        let utf8 = Message { smtputf8: true, ..plain.clone() };
        assert_eq!(code(&utf8, &none), (553, "5.6.7".into(), Fault::Recipient));
        let unflagged = Message { envelope_to: "\u{f6}@y.example".into(), ..plain.clone() };
        assert_eq!(code(&unflagged, &none), (553, "5.6.7".into(), Fault::Recipient));
        let eight_bit = Message { eight_bit: true, ..plain.clone() };
        assert_eq!(code(&eight_bit, &none), (554, "5.6.3".into(), Fault::Content));
        let small = Capabilities { size: true, size_octets_max: Some(17), ..none.clone() };
        assert_eq!(code(&plain, &small), (552, "5.3.4".into(), Fault::Content));
        let injected = Message { envelope_to: "b@y>\r\nDATA".into(), ..plain };
        assert_eq!(code(&injected, &none), (553, "5.1.3".into(), Fault::Recipient));
    }
}
