//! Domains: the one form in which they are compared, stored and sent; and patterns of them, as configuration files name them:
//! `example.com`, `*.example.com`, `*`.
//!
//! Invariant: a form of a domain is lower-case ASCII, also where the domain was given in another script.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use std::borrow::Cow;

/// Returns the A-label form (UTS #46: non-transitional, STD3 rules, lengths of RFC 1035) in lower case; `None` where the
/// domain has none. A domain of ordinary ASCII labels is only lowered: what may stand in it is not decided here.
pub fn a_label(domain: &str) -> Option<Cow<'_, str>> {
    if !needs_idna(domain) {
        return Some(match domain.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(domain.to_ascii_lowercase()),
            false => Cow::Borrowed(domain),
        });
    }
    // Hyphens in the third and fourth place are common in real names.
    Uts46::new().to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify).ok()
}

/// Tells whether a domain is not ASCII, or has a label that says to be an A-label and may be none.
fn needs_idna(domain: &str) -> bool {
    !domain.is_ascii() || domain.split('.').any(|label| starts_as_a_label(label.as_bytes()))
}

/// Tells whether a label begins with `xn--`.
pub fn starts_as_a_label(label: &[u8]) -> bool {
    label.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"xn--"))
}

/// Returns a domain or a pattern of domains (`*`, `*.acme.example`) of a configuration as it compares with [`a_label`]; what
/// has no such form is lowered.
pub fn pattern(text: &str) -> String {
    let (wild, domain) = text.split_at(if text.starts_with("*.") { 2 } else { 0 });
    a_label(domain).map_or_else(|| text.to_lowercase(), |domain| format!("{wild}{domain}"))
}

/// How specific a pattern is for a domain, both in lower case; `None` where it does not match. `*.example.com` matches
/// what lies below `example.com`, and not itself.
pub fn rank(pattern: &str, domain: &str) -> Option<usize> {
    match pattern.strip_prefix("*.") {
        _ if pattern == "*" => Some(0),
        Some(suffix) => domain.strip_suffix(suffix)?.ends_with('.').then_some(suffix.len()),
        None => (pattern == domain).then_some(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_domain_has_one_form() {
        let cases = [
            ("x.example", Some("x.example")),
            ("X.Example", Some("x.example")),
            ("münchen.example", Some("xn--mnchen-3ya.example")),
            ("MÜNCHEN.example", Some("xn--mnchen-3ya.example")),
            ("mu\u{308}nchen.example", Some("xn--mnchen-3ya.example")),
            ("XN--mnchen-3YA.example", Some("xn--mnchen-3ya.example")),
            ("straße.example", Some("xn--strae-oqa.example")),
            ("b。co", Some("b.co")),
            ("ｂ．ｃｏ", Some("b.co")),
            ("r3---sn-a.example", Some("r3---sn-a.example")),
            ("xn--zzzzzz-.example", None),
            ("xn--a.example", None),
            ("ü..example", None),
            ("-ü.example", None),
            ("ü_x.example", None),
            ("ü＠x.example", None),
            ("\u{ad}.example", None),
        ];
        for (given, wanted) in cases {
            assert_eq!(a_label(given).as_deref(), wanted, "{given:?}");
        }
        assert_eq!(a_label(&format!("{}.example", "ü".repeat(60))), None, "longer than a label may be");
    }

    #[test]
    fn a_pattern_compares_with_the_form_of_a_domain() {
        let cases = [("*", "*"), ("*.MÜNCHEN.example", "*.xn--mnchen-3ya.example"), ("Acme.example", "acme.example"), ("ü..B", "ü..b")];
        for (given, wanted) in cases {
            assert_eq!(pattern(given), wanted);
        }
    }

    #[test]
    fn exact_is_before_the_longest_suffix_before_all() {
        let patterns = ["*", "*.b.c", "*.c", "a.b.c"];
        let best = |domain: &str| patterns.into_iter().filter_map(|p| Some((rank(p, domain)?, p))).max().map(|(_, p)| p);
        assert_eq!(
            ["a.b.c", "x.b.c", "b.c", "xb.c", "c", "d"].map(best),
            [Some("a.b.c"), Some("*.b.c"), Some("*.c"), Some("*.c"), Some("*"), Some("*")]
        );
        assert_eq!((rank("*.b.c", "xb.c"), rank("*.b.c", "b.c"), rank("b.c", "a.b.c")), (None, None, None));
    }
}
