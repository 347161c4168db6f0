//! How deep a template may nest.
//!
//! The template engine bounds brackets and blocks within each other, but not chains: each term of `1+1+1` and each `elif` is one
//! level more for what compiles it, and a thread whose stack ends takes the process with it.
//!
//! Invariant: what passes can be compiled, and let go of, on a stack of 2 MiB.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

/// Names, values and signs between `{{` and `}}`, or `{%` and `%}`.
pub const TAG_PARTS_MAX: usize = 250;
/// `elif` in one text.
pub const ELIFS_MAX: usize = 50;

/// Says what nests too deep, and in which line. What is no template at all is for the compiler to refuse.
pub fn check(source: &str, syntax: &SyntaxConfig) -> Result<(), String> {
    let (mut parts, mut elifs) = (0, 0);
    for (token, span) in tokenize(source, false, syntax.clone()).map_while(Result::ok) {
        let refuse = |what: String| Err(format!("nests too deep in line {}: {what}", span.start_line));
        match token {
            Token::VariableStart | Token::BlockStart => parts = 0,
            Token::Ident("elif") if parts == 0 => elifs += 1,
            _ => parts += 1,
        }
        if parts > TAG_PARTS_MAX {
            return refuse(format!("a tag may have at most {TAG_PARTS_MAX} names, values and signs"));
        }
        if elifs > ELIFS_MAX {
            return refuse(format!("a text may have at most {ELIFS_MAX} `elif`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::warmup::render::text::Text;

    /// Chains of every kind, so long that each would end the stack were it compiled.
    const LONG: usize = 100_000;

    #[test]
    fn a_chain_is_refused_whatever_it_is_made_of() {
        let chains = [
            format!("{{{{ {}1 }}}}", "-".repeat(LONG)),
            format!("{{{{ {}1 }}}}", "not ".repeat(LONG)),
            format!("{{{{ 1{} }}}}", "+1".repeat(LONG)),
            format!("{{{{ 1{} }}}}", "~1".repeat(LONG)),
            format!("{{{{ 1{} }}}}", "**1".repeat(LONG)),
            format!("{{{{ name{} }}}}", "|upper".repeat(LONG)),
            format!("{{{{ name{} }}}}", ".a".repeat(LONG)),
            format!("{{{{ name{} }}}}", "()".repeat(LONG)),
            format!("{{{{ name{} }}}}", "[0]".repeat(LONG)),
            format!("{{{{ 1{} }}}}", " and 1".repeat(LONG)),
            format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(LONG)),
            format!("{{{{ \"}}}}\"{} }}}}", "~\"}}\"".repeat(LONG)),
            format!("{{% if name %}}{}{{% endif %}}", "{% elif name %}".repeat(LONG)),
            format!("{{% set x = {}1 %}}", "-".repeat(LONG)),
            format!("{{% for x in {}{} %}}{{% endfor %}}", "[".repeat(LONG), "]".repeat(LONG)),
            format!("{}{}", "{% if name %}".repeat(LONG), "{% endif %}".repeat(LONG)),
            format!("{}{}", "{% if name %}{% else %}".repeat(LONG), "{% endif %}".repeat(LONG)),
        ];
        for chain in chains {
            let words = Text::plain(&chain).err().expect("it nests too deep");
            assert!(words.starts_with("nests too deep in line 1: ") || words.contains("recursion"), "{words}");
        }
    }

    #[test]
    fn the_longest_chains_that_pass_can_be_compiled() {
        let parts = super::TAG_PARTS_MAX - 2;
        let chains = [
            format!("{{{{ {}1 }}}}", "-".repeat(parts)),
            format!("{{{{ {}1 }}}}", "not ".repeat(parts)),
            format!("{{{{ 1{} }}}}", "+1".repeat(parts / 2)),
            format!("{{{{ name{} }}}}", "|upper".repeat(parts / 2)),
            format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(parts / 4)),
            format!("{{% if name %}}{}{{% endif %}}", "{% elif name %}".repeat(super::ELIFS_MAX)),
        ];
        for chain in chains {
            Text::plain(&chain).map(|_| ()).expect("it may nest as deep");
        }
    }

    #[test]
    fn many_short_tags_are_no_chain() {
        assert!(Text::plain(&"{{ name }} {% if name %}a{% else %}b{% endif %} ".repeat(500)).is_ok());
    }

    #[test]
    fn the_line_is_named() {
        let words = Text::plain(&format!("Hello\n{{{{ {}1 }}}}", "-".repeat(300))).err().expect("it nests too deep");
        assert_eq!(words, "nests too deep in line 2: a tag may have at most 250 names, values and signs");
    }
}
