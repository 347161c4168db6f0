//! The relaxed forms of header fields and bodies (RFC 6376 3.4.2 and 3.4.4), which a signature covers.
//!
//! Invariant: made for messages whose line ends are CRLF, as rendered ones have them.

use aws_lc_rs::digest::{SHA256, digest};
use memchr::{memchr, memchr_iter};

/// The hash of a body in its relaxed form.
pub fn body_hash(text: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, &body(text)).as_ref());
    hash
}

/// The fields of a header block: the name of each, and the whole with its folds and its line end.
pub fn fields(header: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = header;
    std::iter::from_fn(move || {
        let end = memchr_iter(b'\n', rest).map(|at| at + 1).find(|end| !matches!(rest.get(*end), Some(b' ' | b'\t')))?;
        let (field, behind) = rest.split_at(end);
        rest = behind;
        // The blank line has no name, and ends the block.
        let colon = memchr(b':', field)?;
        Some((field[..colon].trim_ascii_end(), field))
    })
}

/// Appends a field: its name in lower case, its words with one space between them, all on one line.
pub fn push_field(out: &mut Vec<u8>, field: &[u8]) {
    let (name, value) = field.split_at(memchr(b':', field).map_or(field.len(), |colon| colon + 1));
    let name = name.strip_suffix(b":").unwrap_or(name).trim_ascii_end();
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let is_between = |octet: &u8| matches!(octet, b' ' | b'\t' | b'\r' | b'\n');
    for (index, word) in value.split(is_between).filter(|word| !word.is_empty()).enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
    out.extend_from_slice(b"\r\n");
}

/// A body: one space for each gap, no space before a line end, no empty lines behind the last other one.
fn body(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    let (mut rest, mut last_end) = (text, 0);
    while !rest.is_empty() {
        let end = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let (line, behind) = rest.split_at(end);
        rest = behind;
        let before = out.len();
        push_line(&mut out, line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line)));
        let is_empty = out.len() == before;
        out.extend_from_slice(b"\r\n");
        if !is_empty {
            last_end = out.len();
        }
    }
    out.truncate(last_end);
    out
}

fn push_line(out: &mut Vec<u8>, line: &[u8]) {
    let is_space = |octet: u8| octet == b' ' || octet == b'\t';
    let pairs = line.iter().zip(line.iter().skip(1).chain(b" "));
    // Without an early end, so that many octets are looked at at once.
    if pairs.fold(true, |fine, (a, b)| fine & (*a != b'\t') & !(is_space(*a) & is_space(*b))) {
        return out.extend_from_slice(line);
    }
    let mut gap = false;
    for &octet in line {
        if is_space(octet) {
            gap = true;
            continue;
        }
        if std::mem::take(&mut gap) {
            out.push(b' ');
        }
        out.push(octet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use mail_auth::common::crypto::Ed25519Key;
    use mail_auth::dkim::DkimSigner;
    use proptest::prelude::*;

    fn relaxed(header: &str) -> String {
        let mut out = Vec::new();
        fields(header.as_bytes()).for_each(|(_, field)| push_field(&mut out, field));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_example_of_rfc_6376_3_4_5_has_its_relaxed_form() {
        assert_eq!(relaxed("A: X\r\nB : Y\t\r\n\tZ  \r\n\r\nno: field\r\n"), "a:X\r\nb:Y Z\r\n");
        assert_eq!(body(b" C \r\nD \t E\r\n\r\n\r\n"), b" C\r\nD E\r\n");
    }

    #[test]
    fn the_body_of_rfc_8463_a_has_its_hash() {
        let text = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
        assert_eq!(STANDARD.encode(body_hash(text)), "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");
        assert_eq!(STANDARD.encode(body_hash(b"")), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "RFC 6376 3.4.4");
    }

    proptest! {
        #[test]
        fn a_body_hash_is_that_of_another_implementation(lines in proptest::collection::vec("([ \t]{0,2}[.a]{1,2}[ \t]{0,2}){0,3}", 0..8)) {
            // The other one takes a line of nothing but white space for a line that is not empty; none is ever sent.
            let text = format!(".\r\n{}\r\n", lines.join("\r\n"));
            let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(&[&crate::config::dkim::ED25519_PKCS8_PREFIX[..], &[1; 32]].concat()).unwrap();
            let signer = DkimSigner::from_key(key).domain("a.example").selector("s").headers(["From"]);
            let theirs = signer.sign(format!("From: a@a.example\r\n\r\n{text}").as_bytes()).unwrap().to_string().replace(['\r', '\n', '\t', ' '], "");
            let ours = format!(";bh={};", STANDARD.encode(body_hash(text.as_bytes())));
            prop_assert!(theirs.contains(&ours), "{theirs} {ours}");
        }
    }
}
