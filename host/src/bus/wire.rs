//! placeholder until the schema lands
use crate::bus::{Record, Topic};
use crate::model::event::Event;
pub fn encode(_event: &Event) -> Record {
    Record { topic: Topic::Emails, key: String::new(), id: String::new(), kind: "".into(), org: String::new(), at: 0, payload: vec![] }
}
