//! What the crates of preset clients show: how real replies read, and that credentials are all that it takes.
//!
//! Invariant: knows the kit's presets and no provider.

use postwarm_plugin_api::{Instance, Phase, Secret, SmtpFactory};
use postwarm_plugin_kit::classify::classify;
use postwarm_plugin_kit::preset::Preset;
use postwarm_plugin_kit::reply::ReplyParser;
use std::fmt::Write;

/// A line a reply: whom the preset blames, how long it waits, and the reply as it was read. Replies come without the last
/// line end.
///
/// # Panics
/// Where a line is no SMTP reply.
pub fn judged(preset: &Preset, replies: &[(&str, Phase)]) -> String {
    let mut table = String::new();
    for &(lines, phase) in replies {
        let mut parser = ReplyParser::default();
        parser.feed(format!("{lines}\r\n").as_bytes()).expect("a line of the table is a reply");
        let reply = parser.reply();
        let (fault, retry_after) = classify(preset.rules, &reply, phase);
        let wait = retry_after.map_or_else(String::new, |wait| format!(" after {} s", wait.as_secs()));
        writeln!(table, "{fault:?}{wait}: {reply}").expect("a text takes everything");
    }
    table
}

/// Fails the test that calls it where a user name and a password do not make a client of as many calls as connections ask
/// for.
#[track_caller]
pub fn assert_credentials_are_enough(preset: &Preset) {
    let instance = Instance {
        organization: "acme".into(),
        name: preset.id.into(),
        settings: [("username".to_owned(), "me@acme.example".into())].into_iter().collect(),
        secrets: [("password".to_owned(), Secret::new("secret"))].into_iter().collect(),
        connections_max: 2,
        data_dir: "unused".into(),
    };
    let client = preset.create(instance).unwrap_or_else(|problems| panic!("{}: {problems:?}", preset.id));
    assert_eq!(client.in_flight_max(), 6, "three calls a connection");
}
