use super::*;
use crate::model::address::Address;
use crate::model::email::NewEmail;
use crate::model::name::EmailNumber;
use mail_parser::{HeaderForm, Message, MessageParser};
use postwarm_plugin_testkit::corpora::naughty_strings;
use proptest::prelude::*;

const URL: &str = "https://mail.acme.example/unsubscribe/TOKEN";
/// The fields of a message in order, without those that an email adds.
const FIELDS: [&str; 12] = [
    "Date",
    "From",
    "Subject",
    "Feedback-ID",
    "Precedence",
    "MIME-Version",
    "To",
    "Message-ID",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "Content-Type",
    "Content-Transfer-Encoding",
];

fn mailbox(name: Option<&str>, address: &str) -> Mailbox {
    Mailbox { name: name.map(str::to_owned), address: Address::parse(address).expect("valid") }
}

fn new_email(subject: &str, body: &str) -> NewEmail {
    NewEmail {
        from: mailbox(None, "noreply@acme.example"),
        reply_to: None,
        subject: subject.to_owned(),
        body: body.to_owned(),
        html: None,
        headers: Vec::new(),
    }
}

fn settings() -> RenderSettings {
    RenderSettings { organization: "acme".to_owned(), public_url: Some("https://mail.acme.example".to_owned()) }
}

fn compile(content: NewEmail) -> Result<Template, Vec<(String, String)>> {
    Template::compile(&Email { number: EmailNumber(123), created_at: 0, content }, &settings())
}

fn alice() -> Recipient<'static> {
    Recipient { name: "Alice", address: "alice@example.com", message_id: "123.1.AAAAAAAA@acme.example", unsubscribe_url: Some(URL) }
}

fn rendered(content: NewEmail, recipient: &Recipient<'_>) -> String {
    let rendered = compile(content).expect("compiles").render(recipient, 1_795_608_672_000).expect("renders");
    let message = [&rendered.header[..], &rendered.body[..]].concat();
    assert_clean(&message);
    String::from_utf8(message).expect("utf-8")
}

/// RFC 5322: CRLF at every line end and nowhere else, no line over 998, a last line that ends.
fn assert_clean(message: &[u8]) {
    assert!(message.ends_with(b"\r\n"));
    for line in message[..message.len() - 2].split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
        assert!(line.len() <= 998 && line.iter().all(|b| !matches!(b, b'\r' | b'\n' | 0)), "{:?}", String::from_utf8_lossy(line));
    }
    let (lf, crlf) = (memchr::memchr_iter(b'\n', message).count(), memchr::memmem::find_iter(message, b"\r\n").count());
    assert_eq!(lf, crlf, "a bare LF");
    let body = memchr::memmem::find(message, b"\r\n\r\n").expect("a blank line");
    assert!(message[body..].is_ascii(), "the body is 7-bit");
}

fn parsed(message: &str) -> Message<'_> {
    MessageParser::default().parse(message).expect("a message")
}

fn field_names(message: &str) -> Vec<String> {
    let (head, _) = message.split_once("\r\n\r\n").expect("a blank line");
    head.split("\r\n").filter(|l| !l.starts_with([' ', '\t'])).map(|l| l.split(':').next().unwrap_or_default().to_owned()).collect()
}

/// A text as it looks when its line ends do not matter, nor whether the last line has one.
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").trim_end_matches('\n').to_owned()
}

#[test]
fn a_plain_email_looks_as_documented() {
    let message = rendered(new_email("Welcome!", "Hello, welcome to our warmup system."), &alice());
    expect_test::expect![[r#"
        Date: Wed, 25 Nov 2026 12:11:12 +0000
        From: <noreply@acme.example>
        Subject: Welcome!
        Feedback-ID: email-123:org-acme:broadcast:postwarm
        Precedence: bulk
        MIME-Version: 1.0
        To: "Alice" <alice@example.com>
        Message-ID: <123.1.AAAAAAAA@acme.example>
        List-Unsubscribe: <https://mail.acme.example/unsubscribe/TOKEN>
        List-Unsubscribe-Post: List-Unsubscribe=One-Click
        Content-Type: text/plain; charset=utf-8
        Content-Transfer-Encoding: 7bit

        Hello, welcome to our warmup system.
    "#]]
    .assert_eq(&message.replace("\r\n", "\n"));
}

#[test]
fn a_body_that_names_nobody_is_encoded_once_and_shared() {
    let template = compile(new_email("Hi {{ name }}", "{% set x = 2 %}Gr{{ 'ü' * x }}ße {# none #}")).expect("compiles");
    let render = |name| template.render(&Recipient { name, ..alice() }, 0).expect("renders");
    let (a, b) = (render("A"), render("B"));
    assert_eq!(a.body.as_ptr(), b.body.as_ptr());
    assert_ne!(a.header, b.header);
}

#[test]
fn a_body_that_names_its_recipient_is_rendered_for_each_and_escaped_in_html() {
    let mut email = new_email("Hi {{ name }}", "Dear {{ name }} <{{ email_id }}>\n{{ unsubscribe_url }}\n");
    email.html = Some("<p>{{ name }}</p>".to_owned());
    let message = rendered(email, &Recipient { name: "Zoë <script>", ..alice() });
    let message = parsed(&message);
    assert_eq!(message.subject(), Some("Hi Zoë <script>"));
    assert_eq!(lines(&message.body_text(0).expect("text")), format!("Dear Zoë <script> <alice@example.com>\n{URL}"));
    assert_eq!(lines(&message.body_html(0).expect("html")), "<p>Zoë &lt;script&gt;</p>");
}

#[test]
fn a_feedback_id_has_four_fields_and_a_sender_of_5_to_15_characters() {
    let message = rendered(new_email("s", "b"), &alice());
    let value = message.lines().find_map(|line| line.strip_prefix("Feedback-ID: ")).expect("a field").trim();
    let fields: Vec<&str> = value.split(':').collect();
    assert_eq!(fields.len(), 4);
    assert!((5..=15).contains(&fields[3].len()) && fields.iter().all(|f| !f.is_empty()));
}

#[test]
fn without_a_public_url_there_is_no_unsubscribe_header_and_no_text_may_name_the_link() {
    let message = rendered(new_email("s", "b"), &Recipient { unsubscribe_url: None, ..alice() });
    assert!(!message.contains("List-Unsubscribe"));
    let email = Email { number: EmailNumber(1), created_at: 0, content: new_email("s", "{{ unsubscribe_url }}") };
    let problems = Template::compile(&email, &RenderSettings { public_url: None, ..settings() }).err().expect("refused");
    assert_eq!(problems[0].0, "/body");
}

#[test]
fn an_address_beyond_ascii_asks_for_smtputf8_and_others_do_not() {
    let template = compile(new_email("Grüße", "ü")).expect("compiles");
    let render = |address| template.render(&Recipient { address, ..alice() }, 0).expect("renders");
    assert!(!render("alice@example.com").smtputf8);
    assert!(render("jürgen@example.com").smtputf8);
}

#[test]
fn a_domain_beyond_ascii_stands_in_the_header_as_its_a_label_and_needs_no_smtputf8() {
    let from = mailbox(Some("Acme"), "news@bücher.example");
    let template = compile(NewEmail { reply_to: Some(from.clone()), from, ..new_email("s", "b") }).expect("compiles");
    let address = Address::parse("u@münchen.example").expect("valid");
    let rendered = template.render(&Recipient { address: address.as_str(), ..alice() }, 0).expect("renders");
    let header = std::str::from_utf8(&rendered.header).expect("utf-8");
    assert!(!rendered.smtputf8 && header.is_ascii(), "{header}");
    for line in ["From: \"Acme\" <news@xn--bcher-kva.example>\r\n", "To: \"Alice\" <u@xn--mnchen-3ya.example>\r\n"] {
        assert!(header.contains(line), "{header}");
    }
}

#[test]
fn problems_are_named_by_pointer_all_at_once() {
    let mut email = new_email("a\r\nBcc: x@y.example", "{{ nmae }}");
    email.html = Some("{% if %}".to_owned());
    email.from.name = Some("x\0".to_owned());
    let headers = [("Bcc", "x"), ("X y", "v"), ("X-Ok", "line\nline"), ("Content-Type", "text/html")];
    email.headers = headers.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
    let problems: String = check(&email, &settings()).expect_err("refused").into_iter().map(|(p, m)| format!("{p} {m}\n")).collect();
    expect_test::expect![[r#"
        /from contains `\0` at byte 1; it must be one line
        /subject contains `\r` at byte 1; it must be one line
        /body names `nmae`, which is unknown; use `name`, `email_id` or `unsubscribe_url`
        /html is no template that can be rendered in line 1: syntax error: unexpected end of block
        /headers/Bcc is a header that is written for you; leave it out
        /headers/X y is no header name: use 1 to 64 letters, digits and hyphens
        /headers/X-Ok contains `\n` at byte 4; it must be one line
        /headers/Content-Type is a header that is written for you; leave it out
    "#]]
    .assert_eq(&problems);
}

#[test]
fn a_template_that_fails_for_one_recipient_fails_with_words_and_one_without_end_stops() {
    let template = compile(new_email("s", "{% if name != 'Alice' %}{{ name / 2 }}{% endif %}")).expect("compiles");
    assert!(template.render(&alice(), 0).is_ok());
    let error = template.render(&Recipient { name: "Bob", ..alice() }, 0).expect_err("fails");
    assert_eq!(error.part, "body");
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ name }}{% endfor %}{% endfor %}";
    let problems = compile(new_email("s", endless)).err().expect("refused");
    assert!(problems[0].1.contains("fuel"), "{problems:?}");
}

#[test]
fn smuggled_ends_of_data_and_boundaries_stay_text() {
    for text in ["a\r\n.\r\nMAIL FROM:<x@y>", "a\n.\nb", "a\r.\rb", "a\n.\r\nb", "--=_postwarm.123--\nx", ".\r\n", "From me\n"] {
        let mut email = new_email("s", text);
        email.html = Some(text.to_owned());
        let message = rendered(email, &alice());
        let message = parsed(&message);
        assert_eq!(message.parts.len(), 3, "{text:?}");
        assert_eq!(lines(&message.body_text(0).expect("text")), lines(text));
    }
}

#[test]
fn every_naughty_string_comes_back_as_it_was_in_every_field_or_is_refused_by_name() {
    let Some(strings) = naughty_strings("every_naughty_string_comes_back_as_it_was_in_every_field_or_is_refused_by_name") else { return };
    let mut sent = 0;
    for text in &strings {
        let mut email = new_email(text, text);
        email.from.name = Some(text.clone());
        email.html = Some(text.clone());
        email.headers = vec![("X-Naughty".to_owned(), text.clone())];
        if check(&email, &settings()).is_err() {
            continue;
        }
        sent += 1;
        assert_intact(email, text);
    }
    assert!(sent + 20 > strings.len(), "only {sent} of {} were accepted", strings.len());
}

fn assert_intact(email: NewEmail, name: &str) {
    let fixed = |text: &str| Text::plain(text).expect("compiles").fixed().expect("names nobody").to_owned();
    let (subject, body, value) = (fixed(&email.subject), fixed(&email.body), email.headers[0].1.clone());
    let html = Text::html(email.html.as_deref().expect("html")).expect("compiles").fixed().expect("names nobody").to_owned();
    let raw = rendered(email, &Recipient { name, ..alice() });
    let mut names = field_names(&raw);
    names.retain(|n| n != "X-Naughty");
    assert_eq!(names, FIELDS[..11], "{name:?}");
    let message = parsed(&raw);
    assert_eq!(message.subject().unwrap_or_default(), subject, "subject");
    assert_eq!(lines(&message.body_text(0).unwrap_or_default()), lines(&body), "body");
    let part = message.html_part(0).and_then(|part| part.text_contents()).unwrap_or_default();
    assert_eq!(lines(part), lines(&html), "html");
    let raw_value = message.header_as("X-Naughty", HeaderForm::Text).pop().expect("one field");
    assert_eq!(raw_value.as_text().unwrap_or_default(), value, "value");
    for mailbox in [message.from(), message.to()] {
        let found = mailbox.and_then(|m| m.first()).expect("a mailbox");
        assert_eq!(found.name().unwrap_or_default(), name, "display name in {raw}");
    }
    assert_eq!(message.to().and_then(|m| m.first()).and_then(|m| m.address()), Some("alice@example.com"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_text_comes_back_as_it_was(
        name in "[^\\r\\n\\x00{]{0,200}",
        line in "([ -z|}~]|\\PC|[^\\r\\n\\x00{]){0,240}",
        body in "([a-z .=]|[\\r\\n\\t]|[^\\x00{]){0,400}",
    ) {
        let mut email = new_email(&line, &body);
        email.from.name = Some(name.clone());
        email.html = Some(body.clone());
        email.headers = vec![("X-Naughty".to_owned(), line.clone())];
        if check(&email, &settings()).is_ok() {
            assert_intact(email, &name);
        }
    }
}
