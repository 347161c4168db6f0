//! The examples of the documentation are what the code writes and reads.

use super::*;
use postwarm_plugin_api::{EnhancedCode, Fact, FactKind};
use proptest::prelude::*;
use proptest::{option, sample};

const EMAIL: &str = include_str!("../../../docs/events/email.v1.example.json");
const RECIPIENT: &str = include_str!("../../../docs/events/recipient.v1.example.json");
const FACTS: &str = include_str!("../../../docs/events/facts.v1.example.json");
const EXAMPLES: [(Topic, &str, &str, &str); 3] = [
    (Topic::Emails, EMAIL, "acme/123", "acme/123/accepted"),
    (Topic::Recipients, RECIPIENT, "acme/123.7", "acme/123/7/2/failed"),
    (Topic::Facts, FACTS, "acme/mailpit", "acme/mailpit/4"),
];

fn payload(event: &Event) -> String {
    let batch = encode(event);
    String::from_utf8(batch.records().next().unwrap().payload.to_vec()).unwrap()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,12}", "\\PC{0,8}", "[\"\\\\\u{0}-\u{1f}\u{7f}é/]{0,8}"].prop_map(|text: String| text.replace('@', "."))
}

prop_compose! {
    fn said()(
        reply in option::of((200..600_u16, option::of((2..6_u8, 0..999_u16, 0..999_u16)), text())),
        fault in option::of(prop_oneof![Just(Fault::Recipient), Just(Fault::Network)]),
        detail in option::of(text()),
    ) -> Said {
        let reply = reply.map(|(code, enhanced, text)| Reply { code, enhanced: enhanced.map(|(a, b, c)| EnhancedCode(a, b, c)), text });
        Said { reply, fault, detail }
    }
}

prop_compose! {
    fn change()(
        (email, user, attempt, at) in (1..i64::MAX, 1..5_000_i64, 0..9_i64, any::<i64>()),
        state in sample::select(State::ALL.to_vec()),
        [domain, provider, message_id] in [text(), text(), text()],
        client in option::of(text()),
        said in said(),
        dropped in any::<bool>(),
    ) -> RecipientChanged {
        let (org, source) = (OrgName::parse("acme").unwrap(), if dropped { Source::Live } else { Source::Backfill });
        let (email, user, client) = (EmailNumber(email), UserNumber(user), client.map(Into::into));
        let (domain, provider) = (domain.into(), provider.into());
        RecipientChanged { org, email, user, state, attempt, source, domain, provider, message_id, client, said, dropped, at }
    }
}

proptest! {
    #[test]
    fn whatever_its_texts_are_a_change_reads_back(change in change()) {
        let event = Event::Recipient(change);
        prop_assert_eq!(decode(Topic::Recipients, payload(&event).as_bytes()).unwrap(), event);
    }

    #[test]
    fn what_the_short_way_reads_the_general_way_reads_as_the_same(change in change(), at in any::<sample::Index>(), octet in any::<u8>()) {
        let sent = RecipientChanged {
            client: Some("main".into()),
            said: Said { reply: Some(Reply { code: 250, enhanced: Some(EnhancedCode(2, 0, 0)), text: "Ok".into() }), ..Said::default() },
            ..change
        };
        let mut octets = payload(&Event::Recipient(sent)).into_bytes();
        let at = at.index(octets.len());
        octets[at] = octet;
        if let Some(read) = recipient_as_written(&octets) {
            prop_assert_eq!(read, serde_json::from_slice(&octets).unwrap());
        }
    }
}

#[test]
fn a_message_that_was_sent_is_read_the_short_way() {
    let sent = RECIPIENT.replace("failed", "sent").replace(",\"fault\":\"recipient\"", "");
    let read = recipient_as_written(sent.trim_end().as_bytes());
    assert_eq!(read.unwrap(), serde_json::from_str(&sent).unwrap());
    for (from, to) in [("\"attempt\":2", "\"attempt\":02"), ("\"attempt\":2", "\"attempt\":2.5"), ("}", "} x"), ("acme", "ac\\u006de")] {
        assert!(sent.contains(from), "{sent}");
        assert_eq!(recipient_as_written(sent.trim_end().replacen(from, to, 1).as_bytes()), None, "{to}");
    }
}

#[test]
fn every_example_reads_and_writes_back_as_it_stands() {
    for (topic, example, key, id) in EXAMPLES {
        let event = decode(topic, example.as_bytes()).unwrap();
        let batch = encode(&event);
        let record = batch.records().next().unwrap();
        assert_eq!(std::str::from_utf8(record.payload).unwrap(), example.trim_end());
        let texts = [record.key, record.id, record.org].map(|text| std::str::from_utf8(text).unwrap());
        assert_eq!((record.topic, topic_of(&event), texts), (topic, topic, [key, id, "acme"]));
    }
}

#[test]
fn every_field_of_an_example_stands_in_its_schema() {
    let schemas = [
        include_str!("../../../docs/events/email.v1.schema.json"),
        include_str!("../../../docs/events/recipient.v1.schema.json"),
        include_str!("../../../docs/events/facts.v1.schema.json"),
    ];
    for ((_, example, _, _), schema) in EXAMPLES.into_iter().zip(schemas) {
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        let example: serde_json::Map<String, serde_json::Value> = serde_json::from_str(example).unwrap();
        for field in example.keys() {
            assert!(schema["properties"].get(field).is_some(), "{field} is not in the schema");
        }
        for required in schema["required"].as_array().unwrap() {
            assert!(example.contains_key(required.as_str().unwrap()), "{required} is not in the example");
        }
    }
}

#[test]
fn that_a_person_dropped_a_delivery_is_a_field_of_its_own() {
    let recipient = include_str!("../../../docs/events/recipient.v1.example.json");
    assert!(!recipient.contains("dropped"), "left out where nobody did");
    let dropped = recipient.trim().replace("\"at_ms\"", "\"dropped\":true,\"at_ms\"");
    let event = decode(Topic::Recipients, dropped.as_bytes()).unwrap();
    let Event::Recipient(change) = &event else { panic!("{event:?}") };
    assert!(change.dropped);
    assert_eq!(payload(&event), dropped);
    let schema = include_str!("../../../docs/events/recipient.v1.schema.json");
    assert!(schema.contains("\"dropped\""));
}

#[test]
fn a_field_of_tomorrow_is_ignored_and_another_version_is_refused() {
    let tomorrow = EMAIL.replace("\"version\":1", "\"version\":1,\"weather\":\"mild\"");
    assert!(decode(Topic::Emails, tomorrow.as_bytes()).is_ok());
    let other = EMAIL.replace("\"version\":1", "\"version\":2");
    assert!(matches!(decode(Topic::Emails, other.as_bytes()), Err(WireError::Version(2))));
    for bad in ["", "{}", "[]", "null", "{\"version\":1}"] {
        for topic in [Topic::Emails, Topic::Recipients, Topic::Facts] {
            assert!(decode(topic, bad.as_bytes()).is_err(), "{bad}");
        }
    }
}

#[test]
fn no_record_repeats_an_address_that_a_server_said() {
    for (said, kept) in [
        ("no such user", "no such user"),
        ("<Bob@example.com>: unknown", "<[address]>: unknown"),
        ("mailbox bob@example.com, full; mailto:x@y", "mailbox [address], full; mailto:[address]"),
    ] {
        assert_eq!(without_addresses(said), kept);
    }
    let Ok(Event::Recipient(mut changed)) = decode(Topic::Recipients, RECIPIENT.as_bytes()) else { panic!("an example") };
    changed.said.detail = Some("for bob@example.com".into());
    changed.said.reply = Some(Reply { code: 550, enhanced: None, text: "bob@example.com unknown".into() });
    let fact = Fact { message_id: "1.2.x@d".into(), kind: FactKind::Bounced, at_ms: None, detail: Some("to bob@example.com".into()) };
    let org = changed.org.clone();
    let facts =
        FactsReported { org, feedback: "x".into(), sequence: 1, cursor: String::new(), reports: vec![Report::Message(fact)], at: 0 };
    for event in [Event::Recipient(changed), Event::Facts(facts)] {
        assert!(!payload(&event).contains("bob"));
    }
}
