//! Patterns of domains, as configuration files name them: `example.com`, `*.example.com`, `*`.
//!
//! Invariant: the most specific pattern wins everywhere: exact before suffix (the longest) before `*`.

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
