//! What a library says of itself in its notes, read without running it.

use super::elf::RawNote;
use postwarm_plugin_api::{Kind, abi};

/// A plugin that a library holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub kind: Kind,
    pub id: String,
    pub version: String,
    /// The schema of its settings; empty where there is none.
    pub schema: String,
}

/// The octets that an id may have.
const ID_OCTETS_MAX: usize = 64;

/// Says that a library speaks another ABI.
pub(super) fn wrong_abi(theirs: &str) -> String {
    let ours = abi::ABI;
    format!("it is built for ABI {theirs}, this host speaks {ours}: rebuild it with the postwarm-plugin-api or the header of this release")
}

/// Reads the notes; `Err` says in words what is wrong with them.
pub(super) fn parse(raw: &[RawNote]) -> Result<Vec<Note>, String> {
    let mut notes: Vec<Note> = Vec::new();
    for (_, text) in raw.iter().filter(|(note_type, _)| *note_type == abi::NOTE_PLUGIN) {
        let note = parse_one(&String::from_utf8_lossy(text))?;
        if notes.iter().any(|other| other.kind == note.kind) {
            return Err("it holds two plugins of one kind: put them into two libraries".into());
        }
        notes.push(note);
    }
    if notes.is_empty() {
        return Err(format!(
            "it is no Postwarm plugin: it has no note `{}`, which export_plugin! and PW_PLUGIN_NOTE write",
            abi::NOTE_SECTION
        ));
    }
    for (_, text) in raw.iter().filter(|(note_type, _)| *note_type == abi::NOTE_SCHEMA) {
        let text = String::from_utf8_lossy(text);
        let (id, schema) = text.split_once('\n').unwrap_or_default();
        if !schema.is_empty() && serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(schema).is_err() {
            return Err(format!("the schema in its note for `{id}` is no JSON object"));
        }
        for note in notes.iter_mut().filter(|note| note.id == id) {
            note.schema = schema.to_owned();
        }
    }
    Ok(notes)
}

fn parse_one(text: &str) -> Result<Note, String> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let missing = |key: &str| format!("its note does not say its {key}: rebuild it");
    let theirs = value("abi").ok_or_else(|| missing("abi"))?;
    if theirs != abi::ABI.to_string() {
        return Err(wrong_abi(theirs));
    }
    let kind = match value("kind").ok_or_else(|| missing("kind"))? {
        kind if kind.as_bytes() == abi::KIND_SMTP.to_bytes() => Kind::SmtpClient,
        kind if kind.as_bytes() == abi::KIND_FEEDBACK.to_bytes() => Kind::FeedbackLoop,
        other => return Err(format!("it is a `{other}`, which this host does not know")),
    };
    let id = value("id").ok_or_else(|| missing("id"))?.to_owned();
    let allowed = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if id.is_empty() || id.len() > ID_OCTETS_MAX || !id.chars().all(allowed) {
        return Err(format!("its id `{id}` is not made of a-z, 0-9 and hyphens, at most {ID_OCTETS_MAX} of them"));
    }
    let version = value("version").ok_or_else(|| missing("version"))?.to_owned();
    Ok(Note { kind, id, version, schema: String::new() })
}
