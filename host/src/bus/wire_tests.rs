//! The examples of the documentation are what the code writes and reads.

use super::*;
use postwarm_plugin_api::{Fact, FactKind};

const EMAIL: &str = include_str!("../../../docs/events/email.v1.example.json");
const RECIPIENT: &str = include_str!("../../../docs/events/recipient.v1.example.json");
const FACTS: &str = include_str!("../../../docs/events/facts.v1.example.json");
const EXAMPLES: [(Topic, &str, &str, &str); 3] = [
    (Topic::Emails, EMAIL, "acme/123", "acme/123/accepted"),
    (Topic::Recipients, RECIPIENT, "acme/123.7", "acme/123/7/2/failed"),
    (Topic::Facts, FACTS, "acme/mailpit", "acme/mailpit/4"),
];

#[test]
fn every_example_reads_and_writes_back_as_it_stands() {
    for (topic, example, key, id) in EXAMPLES {
        let record = encode(&decode(topic, example.as_bytes()).unwrap());
        assert_eq!(String::from_utf8(record.payload).unwrap(), example.trim_end());
        assert_eq!((record.topic, record.key.as_str(), record.id.as_str(), record.org.as_str()), (topic, key, id, "acme"));
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
    assert_eq!(String::from_utf8(encode(&event).payload).unwrap(), dropped);
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
    for record in [encode(&Event::Recipient(changed)), encode(&Event::Facts(facts))] {
        assert!(!String::from_utf8(record.payload).unwrap().contains("bob"));
    }
}
