//! Hostile texts in every string field: refused with the field named, or stored and sent as they are.

use crate::harness::{Postwarm, Site, until};
use base64::Engine as _;
use futures_util::StreamExt;
use mail_parser::{HeaderValue, MessageParser};
use postwarm_plugin_testkit::corpora::{isemail, naughty_strings};
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::journal::Fact;
use postwarm_plugin_testkit::sink::script::Script;
use serde_json::{Value, json};
use std::collections::HashMap;

/// What ends a header line or hides text, and the reference strings.
fn strings() -> Vec<String> {
    let ends = ["\r", "\n", "\0", "\r\n", "\r\n\r\n", "\n.\n", "\u{7f}", "\u{85}", "\u{2028}", "\u{202e}"];
    let mut all: Vec<String> = ends.iter().map(|end| format!("a{end}Bcc: x@y.example")).collect();
    all.extend(naughty_strings("the naughty strings in a request").unwrap_or_default());
    all
}

async fn site(sink: &Sink) -> Site {
    let port = sink.addr.port();
    let settings = format!("settings = {{ host = \"127.0.0.1\", port = {port}, tls = \"none\" }}\n");
    Site::with_organization(&format!("[[smtp]]\nname = \"sink\"\nplugin = \"smtp\"\n{settings}limits = {{ connections = 8 }}\n"))
}

/// A refusal names the field.
fn assert_refused(status: u16, body: &Value, field: &str, given: &str) {
    assert_eq!(status, 422, "{field}: {given:?}: {body}");
    let errors = body["errors"].as_array().unwrap();
    let named = |error: &Value| error["pointer"].as_str().is_some_and(|p| p.starts_with(field)) && error["detail"] != "";
    assert!(!errors.is_empty() && errors.iter().all(named), "{field}: {given:?}: {body}");
}

/// The contents that the sink accepted, by email.
fn received(sink: &Sink) -> HashMap<i64, Vec<u8>> {
    let mut found = HashMap::new();
    for entry in sink.journal().entries() {
        if let Fact::Content { bytes, .. } = entry.fact {
            let id = MessageParser::new().parse(&bytes).unwrap().message_id().unwrap().to_owned();
            let email = id.split('.').next().unwrap().parse().unwrap();
            assert!(found.insert(email, bytes).is_none(), "each once");
        }
    }
    found
}

/// The names of all header lines, sorted.
fn header_names(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let header = text.split("\r\n\r\n").next().unwrap();
    let own = header.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
    let mut names: Vec<String> = own.map(|line| line.split(':').next().unwrap().to_ascii_lowercase()).collect();
    names.sort();
    names
}

/// Line ends are what a mail cannot keep apart.
fn as_lines(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}

const FIELDS: [&str; 7] = ["/subject", "/body", "/html", "/headers/X-A", "/headers", "/from", "/reply_to"];

fn email(field: &str, text: &str) -> Value {
    let mut body = json!({"from": "news@acme.example", "subject": "S", "body": "B"});
    match field {
        "/headers/X-A" => body["headers"] = json!({"X-A": text}),
        "/headers" => body["headers"] = json!({text: "x"}),
        "/from" => body["from"] = json!(format!("{text} <news@acme.example>")),
        "/reply_to" => body["reply_to"] = json!(format!("{text} <answers@acme.example>")),
        field => body[&field[1..]] = json!(text),
    }
    body
}

/// What the field is in the message as a reader decodes it; `None` for a field that is only counted.
fn decoded(field: &str, content: &[u8]) -> Option<String> {
    let message = MessageParser::default().default_header_text().parse(content).unwrap();
    match field {
        "/subject" => Some(message.subject().unwrap_or_default().to_owned()),
        "/body" => Some(message.body_text(0).unwrap_or_default().into_owned()),
        "/html" => Some(message.body_html(0).unwrap_or_default().into_owned()),
        "/headers/X-A" => match message.header("X-A") {
            Some(HeaderValue::Text(text)) => Some(words(text)),
            other => panic!("X-A is {other:?}"),
        },
        _ => None,
    }
}

/// Decodes the encoded words of RFC 2047, which the parser leaves alone in a header that it does not know.
fn words(text: &str) -> String {
    let encoded = |word: &str| Some(word.strip_prefix("=?utf-8?B?")?.strip_suffix("?=")?.to_owned());
    let parts: Option<Vec<String>> = text.split_whitespace().map(encoded).collect();
    match parts {
        Some(parts) if !parts.is_empty() => {
            let octets = parts.iter().flat_map(|part| base64::engine::general_purpose::STANDARD.decode(part).unwrap()).collect();
            String::from_utf8(octets).unwrap()
        }
        // Unfolded, as RFC 5322 2.2.3 says.
        _ => text.replace("\r\n", ""),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn send_refuses_each_text_by_its_field_or_sends_it_as_it_is() {
    let sink = Sink::start(Script::default()).await;
    let site = site(&sink).await;
    let postwarm = site.serve();
    postwarm.register("somebody@x.example").await;
    let texts = strings();
    let plain = "plain".to_owned();
    let cases = FIELDS.iter().flat_map(|field| std::iter::once(&plain).chain(&texts).map(move |text| (*field, text)));
    let asked = futures_util::stream::iter(cases.map(|(field, text)| {
        let postwarm = &postwarm;
        async move { (field, text, postwarm.post("/send", email(field, text)).await) }
    }));
    let answers: Vec<_> = asked.buffer_unordered(32).collect().await;
    let mut sent = Vec::new();
    for (field, text, (status, body)) in answers {
        if status == 202 {
            sent.push((field, text, body["email_id"].as_i64().unwrap()));
        } else {
            assert_refused(status, &body, field, text);
        }
    }
    until("all mail to arrive", async || {
        let count = sink.journal().accepted().len();
        ((count >= sent.len()).then_some(()), json!(format!("{count} of {}", sent.len())))
    })
    .await;
    let received = received(&sink);
    let usual: HashMap<&str, Vec<String>> =
        sent.iter().filter(|(_, text, _)| **text == plain).map(|(field, _, email)| (*field, header_names(&received[email]))).collect();
    let mut wrong = Vec::new();
    for (field, text, email) in &sent {
        let content = &received[email];
        let names = header_names(content);
        let is_own = *field == "/headers";
        if !is_own && names != usual[field] || names.len() != usual[field].len() {
            wrong.push(format!("{field}: {text:?}: has {names:?}"));
        }
        // A template is run, not sent.
        let is_template = ["/body", "/html", "/subject"].contains(field) && ["{{", "{%", "{#"].iter().any(|sign| text.contains(sign));
        let found = decoded(field, content).filter(|_| !is_template);
        if found.as_ref().is_some_and(|found| as_lines(found) != as_lines(text)) {
            wrong.push(format!("{field}: {text:?}: arrived as {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), sent.len(), wrong.join("\n"));
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn register_and_import_refuse_each_text_by_its_field_or_store_and_greet_with_it() {
    let sink = Sink::start(Script::default()).await;
    let site = site(&sink).await;
    let postwarm = site.serve();
    let texts = strings();
    let mut named = HashMap::new();
    for (number, text) in texts.iter().enumerate() {
        let address = format!("n{number}@x.example");
        let (status, body) = postwarm.post("/register", json!({"name": text, "email_id": address})).await;
        match status {
            201 => drop(named.insert(address, text.clone())),
            _ => assert_refused(status, &body, "/name", text),
        }
        let (status, body) = postwarm.post("/register", json!({"name": "A", "email_id": text})).await;
        assert_refused(status, &body, "/email_id", text);
    }
    let rows: String =
        texts.iter().enumerate().map(|(n, text)| format!("{}\n", json!({"name": text, "email_id": format!("i{n}@x.example")}))).collect();
    let request = postwarm.client.post(format!("{}/users/import", postwarm.warmup)).header("content-type", "application/x-ndjson");
    let answer: Value = serde_json::from_str(&request.body(rows).send().await.unwrap().text().await.unwrap()).unwrap();
    assert_eq!(
        (answer["created"].as_u64(), answer["invalid"].as_u64()),
        (Some(named.len() as u64), Some((texts.len() - named.len()) as u64))
    );
    assert!(answer["errors"].as_array().unwrap().iter().all(|error| error["code"] == "name_invalid" && error["detail"] != ""), "{answer}");
    let imported: Vec<_> = named.iter().map(|(address, text)| (address.replacen('n', "i", 1), text.clone())).collect();
    named.extend(imported);
    let (_, users) = postwarm.get("/users?limit=10000").await;
    let stored: HashMap<String, String> = users
        .as_array()
        .unwrap()
        .iter()
        .map(|u| (u["email_id"].as_str().unwrap().to_owned(), u["name"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(stored, named, "stored as given");

    let (status, body) = postwarm.post("/send", json!({"from": "news@acme.example", "subject": "S", "body": "{{ name }}"})).await;
    assert_eq!(status, 202, "{body}");
    postwarm.counts_when(body["email_id"].as_i64().unwrap(), |counts| counts["sent"] == named.len()).await;
    let mut usual: Option<Vec<String>> = None;
    for entry in sink.journal().entries() {
        let Fact::Content { to, bytes, .. } = entry.fact else { continue };
        let name = &named[to[0].trim_matches(['<', '>'])];
        assert_eq!(as_lines(&decoded("/body", &bytes).unwrap()), as_lines(name));
        let names = header_names(&bytes);
        assert_eq!(*usual.get_or_insert_with(|| names.clone()), names, "{name:?}");
    }
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_beyond_ascii_reaches_any_server_and_a_local_part_fails_unsent_where_it_cannot() {
    let extensions = ["PIPELINING", "8BITMIME"].map(str::to_owned).to_vec();
    let sink = Sink::start(Script { extensions, ..Script::default() }).await;
    let site = site(&sink).await;
    let postwarm = site.serve();
    for address in ["u@münchen.example", "ü@münchen.example"] {
        postwarm.register(address).await;
    }
    let (status, again) = postwarm.post("/register", json!({"name": "A", "email_id": "u@xn--mnchen-3ya.example"})).await;
    assert_eq!((status, &again["email_id"]), (200, &json!("u@münchen.example")), "{again}");
    for (hidden, words) in [("u@ex\u{ad}ample.com", "U+00AD"), ("u\u{200b}@x.example", "U+200B")] {
        let (status, body) = postwarm.post("/register", json!({"name": "A", "email_id": hidden})).await;
        assert_refused(status, &body, "/email_id", hidden);
        assert!(body.to_string().contains(words), "{body}");
    }
    let (_, body) = postwarm.post("/send", json!({"from": "news@acme.example", "subject": "S", "body": "B"})).await;
    let email = body["email_id"].as_i64().unwrap();
    postwarm.counts_when(email, |counts| counts["sent"] == 1 && counts["failed"] == 1).await;
    let contents: Vec<_> = sink
        .journal()
        .entries()
        .into_iter()
        .filter_map(|entry| match entry.fact {
            Fact::Content { to, bytes, .. } => Some((to, String::from_utf8(bytes).unwrap())),
            _ => None,
        })
        .collect();
    assert_eq!(contents.len(), 1);
    assert_eq!(contents[0].0[0].trim_matches(['<', '>']), "u@xn--mnchen-3ya.example");
    assert!(contents[0].1.is_ascii() && contents[0].1.contains("<u@xn--mnchen-3ya.example>\r\n"), "{}", contents[0].1);
    let (_, rows) = postwarm.get(&format!("/emails/{email}/deliveries?state=failed")).await;
    let reply = rows[0]["reply"].as_str().unwrap_or_default();
    assert!(reply.contains("needs SMTPUTF8") && !reply.starts_with('5'), "{rows}");
    let stats = postwarm.stats_when(email, |stats| stats["pending"] == 0 && stats["recipients"] == 2).await;
    assert_eq!(stats["bounced"], 0, "no server refused it: {stats}");
}

async fn refuse(postwarm: &Postwarm, address: &str) {
    let (status, body) = postwarm.post("/register", json!({"name": "A", "email_id": address})).await;
    assert_refused(status, &body, "/email_id", address);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_invalid_addresses_of_the_corpus_are_refused_with_a_reason() {
    let Some(all) = isemail("the addresses that isemail calls invalid, in a request") else { return };
    let site = Site::with_organization("");
    let postwarm = site.serve();
    let invalid: Vec<String> = all.into_iter().filter(|test| test.category == "ISEMAIL_ERR").map(|test| test.address).collect();
    assert_eq!(invalid.len(), 66);
    for address in &invalid {
        refuse(&postwarm, address).await;
    }
    assert_eq!(postwarm.get("/users").await.1, json!([]));
    assert!(!site.log().contains("panicked"), "{}", site.log());
}
