//! Texts that may be templates.
//!
//! Invariant: a template sees `name`, `email_id` and `unsubscribe_url` and nothing else; it reads no file, and its steps and its
//! output are bounded. Undefined is an error.

use crate::warmup::render::depth;
use crate::warmup::render::lines::Filled;
use crate::warmup::render::splice::Splice;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use std::io;

/// Steps of one rendering.
const FUEL: u64 = 50_000;
/// Octets of one rendered text.
pub const RENDERED_OCTETS_MAX: usize = 10 << 20;
/// What differs from recipient to recipient.
pub const VARIABLES: [&str; 3] = ["name", "email_id", "unsubscribe_url"];
/// Functions of the template language, which the analysis reports as variables.
const FUNCTIONS: [&str; 4] = ["range", "dict", "namespace", "debug"];

/// What a template sees.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    pub name: &'a str,
    pub email_id: &'a str,
    pub unsubscribe_url: Option<&'a str>,
}

/// A text, compiled.
pub enum Text {
    /// The same for everybody.
    Fixed(String),
    Personal(Box<Personal>),
}

/// A template that names its recipient.
pub struct Personal {
    environment: Environment<'static>,
    /// The short way, where there is one.
    splice: Option<Splice>,
}

impl Text {
    /// Compiles a text without escaping.
    pub fn plain(source: &str) -> Result<Text, String> {
        compile(source, AutoEscape::None)
    }

    /// Compiles a text whose values are escaped for HTML.
    pub fn html(source: &str) -> Result<Text, String> {
        compile(source, AutoEscape::Html)
    }

    /// The text for one recipient.
    pub fn render<'a>(&'a self, values: Values<'_>) -> Result<std::borrow::Cow<'a, str>, String> {
        match self {
            Text::Fixed(text) => Ok(text.into()),
            Text::Personal(personal) => match personal.splice.as_ref().and_then(|splice| splice.render(&values)) {
                Some(text) => Ok(text.into()),
                None => render(&personal.environment, values).map(Into::into),
            },
        }
    }

    /// Looks at the lines of a body, once for all recipients.
    pub fn look_at_lines(&mut self) {
        if let Text::Personal(personal) = self {
            personal.splice.iter_mut().for_each(Splice::look_at_lines);
        }
    }

    /// The same in lines that are ready to be encoded, where that comes to the same.
    pub fn filled<'a>(&'a self, values: &Values<'a>) -> Option<Filled<'a>> {
        match self {
            Text::Fixed(_) => None,
            Text::Personal(personal) => personal.splice.as_ref().and_then(|splice| splice.fill(values)),
        }
    }

    /// The text where it is the same for everybody.
    pub fn fixed(&self) -> Option<&str> {
        match self {
            Text::Fixed(text) => Some(text),
            Text::Personal(_) => None,
        }
    }

    /// Tells whether it names this variable.
    pub fn names(&self, variable: &str) -> bool {
        match self {
            Text::Fixed(_) => false,
            Text::Personal(p) => p.environment.get_template("text").is_ok_and(|t| t.undeclared_variables(false).contains(variable)),
        }
    }
}

fn compile(source: &str, escape: AutoEscape) -> Result<Text, String> {
    let html = matches!(escape, AutoEscape::Html);
    if !["{{", "{%", "{#"].iter().any(|start| source.contains(start)) {
        return Ok(Text::Fixed(source.to_owned()));
    }
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build().map_err(words)?;
    depth::check(source, &syntax)?;
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(move |_| escape.clone());
    environment.add_template_owned("text", source.to_owned()).map_err(words)?;
    let named = environment.get_template("text").map_err(words)?.undeclared_variables(false);
    let mut unknown: Vec<&str> = named.iter().map(String::as_str).filter(|n| !VARIABLES.contains(n) && !FUNCTIONS.contains(n)).collect();
    unknown.sort_unstable();
    if let Some(unknown) = unknown.first() {
        return Err(format!("names `{unknown}`, which is unknown; use `name`, `email_id` or `unsubscribe_url`"));
    }
    let sample = Values { name: "Alice", email_id: "alice@example.com", unsubscribe_url: Some("https://example.com/unsubscribe/x") };
    let rendered = render(&environment, sample)?;
    if VARIABLES.iter().any(|v| named.contains(*v)) || named.contains("debug") {
        Ok(Text::Personal(Box::new(Personal { environment, splice: Splice::of(source, html) })))
    } else {
        Ok(Text::Fixed(rendered))
    }
}

fn render(environment: &Environment<'static>, values: Values<'_>) -> Result<String, String> {
    let template = environment.get_template("text").map_err(words)?;
    let context = context! {
        name => values.name, email_id => values.email_id, unsubscribe_url => values.unsubscribe_url.unwrap_or_default(),
    };
    let mut out = Bounded(Vec::new());
    template.render_captured_to(context, &mut out).map_err(words)?;
    String::from_utf8(out.0).map_err(|_| "rendered to something that is no UTF-8".to_owned())
}

/// Says what is wrong in one line, with the line of the template.
fn words(error: minijinja::Error) -> String {
    let detail = error.detail().unwrap_or_default();
    let at = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let gap = if detail.is_empty() { "" } else { ": " };
    format!("is no template that can be rendered{at}: {}{gap}{}", error.kind(), detail.escape_debug())
}

/// Refuses to hold more than a text may have.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > RENDERED_OCTETS_MAX {
            return Err(io::Error::other("the rendered text is longer than 10 MiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn both_ways(source: &str, escape: AutoEscape, values: Values<'_>) -> Option<(Result<String, String>, Result<String, String>)> {
        let Ok(Text::Personal(personal)) = compile(source, escape) else { return None };
        let splice = personal.splice.as_ref()?;
        Some((splice.render(&values).ok_or_else(String::new), render(&personal.environment, values)))
    }

    #[test]
    fn values_alone_are_spliced_and_all_else_is_left_to_the_template_language() {
        let values = Values { name: "Al <b>", email_id: "a@b.example", unsubscribe_url: None };
        for source in ["{{name}}", "a {{ name }}\n{{\temail_id\n}}{{ unsubscribe_url }}}} { { ", "}}{{ name }}\r\n", "{{ name }}{"] {
            for escape in [AutoEscape::None, AutoEscape::Html] {
                let (spliced, rendered) = both_ways(source, escape, values).unwrap();
                assert_eq!(spliced, rendered, "{source:?}");
            }
        }
        for source in
            ["{{- name }}", "{{ name -}} x", "{{ name|upper }}", "{{ 'x' }}{{ name }}", "{# #}{{ name }}", "{% if name %}{% endif %}"]
        {
            assert!(both_ways(source, AutoEscape::None, values).is_none(), "{source:?}");
        }
    }

    proptest! {
        #[test]
        fn a_splice_is_what_the_template_language_makes(
            parts in proptest::collection::vec(prop_oneof![
                Just("{{ name }}".to_owned()), Just("{{email_id}}".to_owned()), Just("{{ unsubscribe_url }}".to_owned()),
                "[ {}%#\r\n<&'\"/=-]{0,3}", "\\PC{0,4}",
            ], 0..8),
            [name, email_id, url] in ["[ {}%#\r\n<>&'\"/=]{0,6}", "\\PC{0,6}", "[a-z:/.]{0,9}"],
            html in any::<bool>(),
        ) {
            let values = Values { name: &name, email_id: &email_id, unsubscribe_url: Some(&url) };
            let escape = if html { AutoEscape::Html } else { AutoEscape::None };
            if let Some((spliced, rendered)) = both_ways(&parts.concat(), escape, values) {
                prop_assert_eq!(spliced, rendered);
            }
        }
    }
}
