//! Mailboxes as text: `alice@example.com` or `Alice <alice@example.com>`.
//!
//! Invariant: what is read has no control character, and what is written reads back as the same.

use crate::model::address::Address;
use crate::model::email::Mailbox;
use crate::warmup::api::users::{NAME_CHARS_MAX, no_controls};

/// Reads a mailbox; `Err` says what is wrong with it.
pub fn read_mailbox(text: &str) -> Result<Mailbox, String> {
    let text = text.trim_matches([' ', '\t']);
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    no_controls(text)?;
    let (name, address) = match text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        None => (None, text),
        Some((name, address)) => (read_name(name.trim())?, address),
    };
    let address = Address::parse(address).map_err(|problem| problem.to_string())?;
    Ok(Mailbox { name, address })
}

/// Writes a mailbox; a name with special characters is quoted (RFC 5322 3.2.4).
pub fn write_mailbox(mailbox: &Mailbox) -> String {
    match &mailbox.name {
        None => mailbox.address.to_string(),
        Some(name) if name.chars().all(is_plain) && name.trim() == name => format!("{name} <{}>", mailbox.address),
        Some(name) => format!("\"{}\" <{}>", name.replace('\\', "\\\\").replace('"', "\\\""), mailbox.address),
    }
}

fn is_plain(c: char) -> bool {
    c == ' ' || c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.,".contains(c) || (!c.is_ascii() && !c.is_control())
}

fn read_name(text: &str) -> Result<Option<String>, String> {
    let name = match text.strip_prefix('"') {
        None if text.contains(['"', '<', '>', '@']) => {
            return Err("has a name with `\"`, `<`, `>` or `@`; put the name in double quotes".to_owned());
        }
        None => text.to_owned(),
        Some(rest) => unquote(rest).ok_or("has a quoted name that does not end before the address")?,
    };
    if name.chars().count() > NAME_CHARS_MAX {
        return Err(format!("has a name of more than {NAME_CHARS_MAX} characters"));
    }
    Ok((!name.trim().is_empty()).then_some(name))
}

/// The text of a quoted string behind its opening quote; `None` where its closing quote is not the end.
fn unquote(rest: &str) -> Option<String> {
    let mut name = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(name),
            '\\' => name.push(chars.next()?),
            c => name.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_reads_back_as_it_was_written() {
        for (text, name) in [
            ("a@b.example", None),
            ("<a@b.example>", None),
            ("Acme, Inc. <a@b.example>", Some("Acme, Inc.")),
            ("\"bob@x, \\\"B\\\" <y>\" <a@b.example>", Some("bob@x, \"B\" <y>")),
            ("Zoë 田中 <a@b.example>", Some("Zoë 田中")),
            ("\"a\\\\b\" <a@b.example>", Some("a\\b")),
        ] {
            let mailbox = read_mailbox(text).expect(text);
            assert_eq!(mailbox.name.as_deref(), name, "{text}");
            assert_eq!(read_mailbox(&write_mailbox(&mailbox)), Ok(mailbox), "{text}");
        }
    }

    #[test]
    fn lists_and_broken_quotes_are_refused() {
        for bad in ["a@b.example, c@d.example", "a@b.example, C <c@d.example>", "\"x <a@b.example>", "x\ny <a@b.example>", "x <>", "", "x"]
        {
            assert!(read_mailbox(bad).is_err(), "{bad:?}");
        }
    }
}
