//! The reference corpora: texts and addresses that others collected, in the folder that POSTWARM_SHARED names, by default
//! `shared` beside the repository.
//!
//! Invariant: a corpus that is absent is said aloud ([`skip`]), so that its test is never counted as passed.

use crate::skip::skip;
use std::path::PathBuf;

/// An address of isemail's tests and what isemail says of it, such as `ISEMAIL_ERR`.
pub struct JudgedAddress {
    pub address: String,
    pub category: String,
}

/// The addresses of isemail's tests. `test` is skipped where they are absent.
pub fn isemail(test: &str) -> Option<Vec<JudgedAddress>> {
    let xml = read(test, "addresses/isemail-tests.xml")?;
    let judged = |test| {
        Some(JudgedAddress { address: unescape(inner(test, "address").unwrap_or_default()), category: inner(test, "category")?.into() })
    };
    Some(xml.split("<test ").skip(1).filter_map(judged).collect())
}

/// The big list of naughty strings. `test` is skipped where it is absent.
pub fn naughty_strings(test: &str) -> Option<Vec<String>> {
    let list = read(test, "text/naughty-strings.json")?;
    Some(serde_json::from_str(&list).expect("a list of strings"))
}

fn read(test: &str, file: &str) -> Option<String> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let shared = std::env::var_os("POSTWARM_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let text = std::fs::read_to_string(shared.join("corpora").join(file)).ok();
    if text.is_none() {
        skip(test, &format!("corpora/{file} is not in POSTWARM_SHARED"));
    }
    text
}

/// What stands in the first element of that name.
fn inner<'a>(xml: &'a str, tag: &str) -> Option<&'a str> {
    let from = xml.split_once(&format!("<{tag}>"))?.1;
    Some(from.split_once(&format!("</{tag}>"))?.0)
}

/// Resolves entities, then the pictures that isemail has in place of control characters.
fn unescape(text: &str) -> String {
    let mut parts = text.split('&');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (entity, rest) = part.split_once(';').expect("an entity");
        let number = entity.strip_prefix("#x").map(|hex| u32::from_str_radix(hex, 16));
        let number = number.or(entity.strip_prefix('#').map(str::parse));
        out.push(match (entity, number) {
            ("amp", _) => '&',
            ("lt", _) => '<',
            ("gt", _) => '>',
            ("quot", _) => '"',
            ("apos", _) => '\'',
            (_, number) => char::from_u32(number.expect("a number").expect("digits")).expect("a character"),
        });
        out.push_str(rest);
    }
    let picture = |c: char| match c {
        '\u{2400}'..='\u{241f}' => char::from_u32(c as u32 - 0x2400).expect("a control character"),
        c => c,
    };
    out.chars().map(picture).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_and_pictures_are_the_characters_that_they_stand_for() {
        assert_eq!(unescape("&lt;a&amp;b&#x40;c&#46;d&gt;\u{240d}\u{240a}\u{2400}"), "<a&b@c.d>\r\n\0");
        assert_eq!(inner("<a>1</a><b>2</b>", "b"), Some("2"));
    }
}
