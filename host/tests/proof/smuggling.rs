//! Octets that want to be more than they are: ends of data within a content, and replies in clear in front of TLS.

use crate::broadcast::{Broadcast, site};
use crate::check::check;
use crate::harness::{Postwarm, Site};
use crate::scenario::{Line, Plan};
use crate::servers::client;
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::journal::Fact;
use postwarm_plugin_testkit::sink::lenient;
use postwarm_plugin_testkit::sink::script::{Action, Rule, Script, Step, Tls};
use serde_json::{Value, json};

/// Whom only a smuggled message would be for.
const SMUGGLED: &str = "smuggled@x.example";
const RECIPIENTS: usize = 2;
const LINE_ENDS: [&str; 3] = ["\r\n", "\n", "\r"];
/// More than a block of content, so that a form lies across the border of two.
const LONG_OCTETS: usize = 300_000;

/// No content, wherever its octets come from, is more than one message to the strictest server or the most lenient.
pub async fn contents(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    for extension in ["", "PIPELINING"] {
        let script = if extension.is_empty() { Script::default() } else { Script::default().without(extension) };
        let sink = Sink::start(script).await;
        let site = site(&sink, "");
        let postwarm = site.serve();
        postwarm.import(RECIPIENTS, "x.example").await;
        // A name stands in the body where a template asks for it, and in `To`.
        let (status, answer) = postwarm.post("/register", json!({"name": form("\r\n", "", "", "\r\n"), "email_id": "n@x.example"})).await;
        line.expect(status == 422, || format!("a name with line ends: {status} {answer}"));
        let mut taken = 0;
        for email in emails() {
            line.faults += 1;
            let (status, answer) = postwarm.post("/send", email.clone()).await;
            line.expect([202, 422].contains(&status), || format!("{status} {answer}"));
            taken += usize::from(status == 202);
            if let Some(number) = answer["email_id"].as_i64() {
                let is_over = |counts: &Value| ["queued", "sending", "deferred"].iter().all(|state| counts[state] == 0);
                postwarm.counts_when(number, is_over).await;
            }
        }
        line.recipients += (taken * RECIPIENTS) as u64;
        line.expect(taken > 20, || format!("only {taken} emails were taken, which proves little"));
        judge(&mut line, &sink, taken * RECIPIENTS);
        assert_eq!(postwarm.terminate(), Some(0), "the exit code of a stop");
    }
    line
}

/// As the sink saw it, and as a more lenient one would have.
fn judge(line: &mut Line, sink: &Sink, messages: usize) {
    let entries = sink.journal().entries();
    let mut contents = 0;
    for entry in &entries {
        match &entry.fact {
            Fact::Content { wire, .. } => {
                contents += 1;
                let ends = lenient::ends(wire);
                let words = || format!("a lenient server sees {} ends of data: {:?}", ends.len(), String::from_utf8_lossy(wire));
                line.expect(ends == [wire.len() - 3], || words().chars().take(2_000).collect());
            }
            Fact::Mail(command) | Fact::Rcpt(command) | Fact::Command(command) => {
                line.expect(!command.contains("muggled"), || format!("the sink got {command:?}"));
            }
            _ => {}
        }
    }
    line.expect(contents == messages, || format!("{messages} messages became {contents}"));
    line.found.false_accepted += (messages.saturating_sub(sink.journal().accepted_count())) as u64;
    line.found.duplicates += (sink.journal().accepted_count().saturating_sub(messages)) as u64;
}

/// An end of data of some kind, and behind it a message.
fn form(before: &str, nul_before: &str, nul_behind: &str, behind: &str) -> String {
    format!(
        "x{before}{nul_before}.{nul_behind}{behind}MAIL FROM:<smuggled@acme.example>\r\nRCPT TO:<{SMUGGLED}>\r\nDATA\r\n\
         Subject: smuggled\r\n\r\nsmuggled{before}.{behind}"
    )
}

/// Each form in each place that takes text.
fn emails() -> Vec<Value> {
    let plain = json!({"from": "news@acme.example", "subject": "Hello", "body": "Hello"});
    let mut forms = Vec::new();
    for before in LINE_ENDS {
        for behind in LINE_ENDS {
            forms.push(form(before, "", "", behind));
            forms.push(form(before, "\0", "", behind));
            forms.push(form(before, "", "\0", behind));
        }
    }
    let with = |field: &str, value: Value| {
        let mut email = plain.clone();
        email[field] = value;
        email
    };
    let mut emails = Vec::new();
    for form in &forms {
        emails.extend(["body", "html", "subject", "reply_to", "from"].map(|field| with(field, json!(form))));
        emails.push(with("headers", json!({"X-Form": form})));
        emails.push(with("headers", json!({form: "x"})));
        emails.push(with("body", json!(format!(".{form}"))));
        emails.push(with("body", json!(format!("{{{{ {form:?} }}}}"))));
        // A form across the border of two blocks, whatever the length of what is in front of it.
        let repeated = form.repeat(LONG_OCTETS / form.len());
        emails.push(with("body", json!(repeated)));
    }
    emails
}

/// What a server, or somebody in between, says in clear behind its reply to STARTTLS is not taken; nor does a client go on without TLS.
pub async fn starttls(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let offered = "220 go ahead\r\n";
    let glued = |more: &str| Rule::new(Step::StartTls, Action::Raw(format!("{offered}{more}").into_bytes()));
    let late = |more: &str| Rule::new(Step::Handshake, Action::Raw(more.as_bytes().to_vec()));
    let hostile: Vec<(&str, Tls, Vec<Rule>)> = vec![
        ("a reply to EHLO in the same segment", Tls::StartTls, vec![glued("250-evil\r\n250 AUTH PLAIN LOGIN\r\n")]),
        ("a reply to EHLO and one to AUTH", Tls::StartTls, vec![glued("250 AUTH PLAIN\r\n235 2.7.0 welcome\r\n")]),
        ("half a reply", Tls::StartTls, vec![glued("250")]),
        ("one octet", Tls::StartTls, vec![glued("\n")]),
        ("a reply in a segment of its own", Tls::StartTls, vec![late("250 AUTH PLAIN\r\n")]),
        ("STARTTLS is not offered", Tls::None, vec![]),
        ("STARTTLS is refused", Tls::StartTls, vec![Rule::new(Step::StartTls, Action::reply("454 4.7.0 no TLS now"))]),
    ];
    for (name, tls, rules) in hostile {
        line.faults += 1;
        let (entries, evidence) = over_tls(tls, rules).await;
        let told = entries.iter().any(|fact| matches!(fact, Fact::Auth { .. } | Fact::Mail(_) | Fact::Encrypted));
        line.expect(!told, || format!("{name}: the client went on: {entries:?}"));
        line.add(RECIPIENTS as u64, check(&evidence));
    }
    // The same client and a server that behaves: it would have gone on.
    let (entries, evidence) = over_tls(Tls::StartTls, vec![]).await;
    let encrypted = entries.iter().any(|fact| matches!(fact, Fact::Auth { encrypted: true, accepted: true, .. }));
    line.expect(encrypted, || format!("without an injection nothing is encrypted: {entries:?}"));
    line.add(RECIPIENTS as u64, check(&evidence));
    line
}

/// A broadcast through a server that the client must speak to over TLS, and a second one without fault; the facts of the first.
async fn over_tls(tls: Tls, rules: Vec<Rule>) -> (Vec<Fact>, crate::check::Evidence) {
    let credentials = Some(("user".to_owned(), "secret".to_owned()));
    let first = Sink::start(Script { tls, rules, credentials, ..Script::default() }).await;
    let second = Sink::start(Script::default()).await;
    let site = Site::with_organization("").env("SINK_PASSWORD", "secret");
    site.write("ca.pem", first.ca_pem());
    let ca = site.config().join("ca.pem");
    let settings = format!("tls = \"starttls\", tls_ca_file = {ca:?}, username = \"user\", password = {{ env = \"SINK_PASSWORD\" }}");
    let clients = client("first", first.addr, &settings, "connections = 1") + &client("second", second.addr, "", "connections = 1");
    site.organization("demo", &format!("from_domains = [\"acme.example\"]\ndevelopment = true\n{clients}"));
    let postwarm: Postwarm = site.serve();
    let broadcast = Broadcast::begin(&postwarm, RECIPIENTS).await;
    let evidence = broadcast.evidence(postwarm, &site, &[&first, &second]).await;
    (first.journal().entries().into_iter().map(|entry| entry.fact).collect(), evidence)
}
