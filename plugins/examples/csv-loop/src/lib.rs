//! Example: an external feedback loop in Rust that reads a CSV file, to which something else appends.
//!
//! Lines are `message_id,kind,at`: a Message-ID with or without its angle brackets; `delivered`, `spam`, `opened`, `read`,
//! `bounced` or `unsubscribed`; milliseconds since 1970 UTC, or nothing. A first line that starts with `message_id` is a
//! heading.
//!
//! Invariant: the cursor is an offset in octets, always behind a whole line; a line that is still being written waits.

use postwarm_plugin_api::serde_json::Value;
use postwarm_plugin_api::{
    BoxFuture, Capabilities, Descriptor, Fact, FactKind, FactSink, FeedbackFactory, FeedbackLoop, Instance, Kind, Poll, PollError, Report,
    SettingsProblem, export_plugin,
};
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "required": ["path"],
  "properties": { "path": { "type": "string", "description": "the CSV file" } }
}"#;

/// The octets that one poll reads; the next poll goes on from there.
const POLL_OCTETS_MAX: u64 = 4 << 20;

export_plugin!(feedback: CsvFactory, id: "example-csv", schema: SCHEMA);

/// Makes loops over CSV files.
struct CsvFactory;

impl FeedbackFactory for CsvFactory {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            id: "example-csv".into(),
            kind: Kind::FeedbackLoop,
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Example: facts from a CSV file".into(),
            settings_schema: SCHEMA.into(),
        }
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn FeedbackLoop>, Vec<SettingsProblem>> {
        let mut problems = Vec::new();
        for key in instance.settings.keys().filter(|key| *key != "path") {
            problems.push(SettingsProblem::new(format!("/{key}"), "there is no such setting; there is `path`"));
        }
        let path = instance.settings.get("path").and_then(Value::as_str).unwrap_or_default();
        if path.is_empty() {
            problems.push(SettingsProblem::new("/path", "must be the path of the CSV file"));
        }
        if problems.is_empty() { Ok(Arc::new(CsvLoop { path: path.into() })) } else { Err(problems) }
    }
}

struct CsvLoop {
    path: PathBuf,
}

impl FeedbackLoop for CsvLoop {
    fn capabilities(&self) -> Capabilities {
        Capabilities { delivered: true, spam: true, opened: true, read: true, bounced: true, unsubscribed: true, aggregates: false }
    }

    fn poll<'a>(&'a self, poll: Poll<'a>, sink: &'a mut dyn FactSink) -> BoxFuture<'a, Result<String, PollError>> {
        Box::pin(async move {
            let start = match poll.cursor {
                "" => 0,
                cursor => cursor.parse().map_err(|_| PollError::Refused(format!("`{cursor}` is no cursor of this loop")))?,
            };
            let failed = |error| PollError::Temporary(format!("{}: {error}", self.path.display()));
            let (start, text) = read_from(&self.path, start).await.map_err(failed)?;
            report(start, &text, sink).map(|cursor| cursor.to_string())
        })
    }
}

/// Reads from `start`, or from the beginning when no line ends there: it is another file then. Facts that are reported twice
/// harm nothing; a cursor within a line would hold all of them up.
async fn read_from(path: &Path, start: u64) -> std::io::Result<(u64, Vec<u8>)> {
    let mut file = File::open(path).await?;
    let start = if ends_line(&mut file, start).await? { start } else { 0 };
    file.seek(SeekFrom::Start(start)).await?;
    let mut text = Vec::new();
    file.take(POLL_OCTETS_MAX).read_to_end(&mut text).await?;
    Ok((start, text))
}

async fn ends_line(file: &mut File, at: u64) -> std::io::Result<bool> {
    let Some(before) = at.checked_sub(1) else { return Ok(true) };
    if file.metadata().await?.len() < at {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(before)).await?;
    Ok(file.read_u8().await? == b'\n')
}

/// Reports the whole lines of `text`, which stands at `start`, and returns where the next poll begins. A line that makes no
/// sense stops it: an error when it is the first, else the next poll's first.
fn report(start: u64, text: &[u8], sink: &mut dyn FactSink) -> Result<u64, PollError> {
    let mut cursor = start;
    for line in text.split_inclusive(|octet| *octet == b'\n').filter(|line| line.ends_with(b"\n")) {
        match parse(&String::from_utf8_lossy(line), cursor == 0) {
            Ok(Some(fact)) => {
                if !sink.push(Report::Message(fact)) {
                    // It took this one and wants no more.
                    return Ok(cursor + line.len() as u64);
                }
            }
            Ok(None) => {}
            Err(words) if cursor == start => return Err(PollError::Refused(format!("the line at octet {cursor} {words}"))),
            Err(_) => return Ok(cursor),
        }
        cursor += line.len() as u64;
    }
    if cursor == start && text.len() as u64 == POLL_OCTETS_MAX {
        return Err(PollError::Refused(format!("the line at octet {cursor} is longer than {POLL_OCTETS_MAX} octets")));
    }
    Ok(cursor)
}

fn parse(line: &str, first: bool) -> Result<Option<Fact>, String> {
    let line = line.trim();
    if line.is_empty() || (first && line.starts_with("message_id")) {
        return Ok(None);
    }
    let mut fields = line.split(',').map(str::trim);
    let message_id = fields.next().unwrap_or_default().trim_start_matches('<').trim_end_matches('>');
    let kind = match fields.next().unwrap_or_default() {
        "delivered" => FactKind::Delivered,
        "spam" => FactKind::Spam,
        "opened" => FactKind::Opened,
        "read" => FactKind::Read,
        "bounced" => FactKind::Bounced,
        "unsubscribed" => FactKind::Unsubscribed,
        other => return Err(format!("has the kind `{other}`; there are delivered, spam, opened, read, bounced, unsubscribed")),
    };
    let at_ms = match fields.next().unwrap_or_default() {
        "" => None,
        at => Some(at.parse().map_err(|_| format!("has the time `{at}`; it must be milliseconds since 1970"))?),
    };
    if message_id.is_empty() {
        return Err("has no message id".into());
    }
    Ok(Some(Fact { message_id: message_id.to_owned(), kind, at_ms, detail: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Collected(Vec<Report>, usize);

    impl FactSink for Collected {
        fn push(&mut self, report: Report) -> bool {
            self.0.push(report);
            self.0.len() != self.1
        }
    }

    #[test]
    fn whole_lines_are_reported_and_the_cursor_stands_behind_them() {
        let mut sink = Collected::default();
        let cursor = report(0, b"message_id,kind,at\n<a@b>,read,7\nc@d,spam,\ne@f,del", &mut sink);
        assert_eq!(cursor, Ok(42));
        let fact = |id: &str, kind, at_ms| Report::Message(Fact { message_id: id.into(), kind, at_ms, detail: None });
        assert_eq!(sink.0, [fact("a@b", FactKind::Read, Some(7)), fact("c@d", FactKind::Spam, None)]);
    }

    #[test]
    fn the_good_lines_before_a_senseless_one_are_taken() {
        let mut sink = Collected::default();
        let text = b"message_id,kind,at\na@b,read,\nc@d,spam,\ne@f,eaten,\ng@h,read,\n";
        assert_eq!(report(0, text, &mut sink), Ok(39));
        assert_eq!(sink.0.len(), 2);
    }

    #[tokio::test]
    async fn a_file_that_took_the_place_of_another_is_read_from_its_beginning() {
        let path = std::env::temp_dir().join(format!("postwarm-example-csv-{}.csv", std::process::id()));
        let text = b"a@b,read,\nc@d,spam,\n";
        std::fs::write(&path, text).unwrap();
        let mut starts = Vec::new();
        for start in [0, 10, 15, 20, 25] {
            let (start, read) = read_from(&path, start).await.unwrap();
            assert_eq!(read, text[start as usize..]);
            starts.push(start);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(starts, [0, 10, 0, 20, 0]);
    }

    #[test]
    fn a_senseless_line_is_an_error_only_when_nothing_stands_before_it() {
        assert_eq!(report(9, b"a@b,read,\nc@d,eaten,\n", &mut Collected::default()), Ok(19));
        let words = report(19, b"c@d,eaten,\n", &mut Collected::default()).map_err(|error| error.to_string());
        assert!(words.is_err_and(|words| words.starts_with("the line at octet 19 has the kind `eaten`")));
    }
}
