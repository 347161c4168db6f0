//! The loop that tells what the sandbox's mailboxes did, as far as the provider that it plays would tell.
//!
//! Whose messages it tells of is a matter of the organization's `domains`; the setting `mailboxes` says what it can tell of
//! them. So whoever it is in charge of is told of, or is declared to be beyond its knowledge, whatever the mailbox.
//!
//! Invariant: it holds no state; the cursor is a place in the file of verdicts, and only whole lines count.

use crate::behaviour::Provider;
use crate::server::file_path;
use crate::session::Record;
use crate::settings::{LOOP_SCHEMA, mailboxes};
use postwarm_plugin_api::{
    BoxFuture, Builtin, Capabilities, Descriptor, Fact, FactKind, FactSink, FeedbackFactory, FeedbackLoop, Instance, Kind, Poll, PollError,
    SettingsProblem, register_builtin,
};
use postwarm_plugin_kit::cursor::Cursor;
use std::io::{ErrorKind, SeekFrom};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader};

/// The longest line that can be a record; a longer one is skipped.
const LINE_OCTETS_MAX: u64 = 64 * 1024;
const BUFFER_OCTETS: usize = 256 * 1024;

/// Makes loops of the plugin `sandbox`.
pub struct SandboxFeedback;

register_builtin!(Builtin::Feedback(&SandboxFeedback));

impl FeedbackFactory for SandboxFeedback {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            id: "sandbox".into(),
            kind: Kind::FeedbackLoop,
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Tells what the sandbox's mailboxes did, as far as a provider would tell.".into(),
            settings_schema: LOOP_SCHEMA.into(),
        }
    }

    fn create(&self, instance: Instance) -> Result<Arc<dyn FeedbackLoop>, Vec<SettingsProblem>> {
        let capabilities = capabilities(mailboxes(&instance)?);
        Ok(Arc::new(SandboxLoop { capabilities, path: file_path(&instance.data_dir) }))
    }
}

struct SandboxLoop {
    capabilities: Capabilities,
    path: PathBuf,
}

/// What a provider tells about a single message. Gmail tells nothing; its figures for a domain and a day need a day's
/// end and enough mail, which the sandbox does not model, so no loop here declares aggregates.
pub fn capabilities(provider: Provider) -> Capabilities {
    let nothing = Capabilities::default();
    match provider {
        Provider::Gmail => nothing,
        Provider::Yahoo | Provider::Outlook => Capabilities { spam: true, bounced: true, ..nothing },
        Provider::Apple => Capabilities { bounced: true, ..nothing },
        Provider::Open => Capabilities { delivered: true, spam: true, opened: true, read: true, bounced: true, ..nothing },
    }
}

/// Returns what a loop that can tell this reports of a record, always in the same order.
fn facts(capabilities: Capabilities, record: &Record) -> Vec<Fact> {
    let Some(message_id) = &record.message_id else { return Vec::new() };
    let verdict = &record.verdict;
    [
        (verdict.delivered, FactKind::Delivered),
        (verdict.spam, FactKind::Spam),
        (verdict.opened, FactKind::Opened),
        (verdict.read, FactKind::Read),
        (verdict.bounced, FactKind::Bounced),
    ]
    .into_iter()
    .filter(|(holds, kind)| *holds && capabilities.allows(*kind))
    .map(|(_, kind)| Fact { message_id: message_id.clone(), kind, at_ms: Some(record.at_ms), detail: detail(kind) })
    .collect()
}

fn detail(kind: FactKind) -> Option<String> {
    (kind == FactKind::Bounced).then(|| "550 5.2.1 the mailbox was disabled after it had accepted the message".to_owned())
}

impl FeedbackLoop for SandboxLoop {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn poll<'a>(&'a self, poll: Poll<'a>, sink: &'a mut dyn FactSink) -> BoxFuture<'a, Result<String, PollError>> {
        Box::pin(async move {
            let cursor = Cursor::parse(poll.cursor, "the sandbox", "an offset into mailboxes.ndjson")?;
            let cursor = self.read(cursor, &poll, sink).await?;
            Ok(cursor.to_string())
        })
    }
}

impl SandboxLoop {
    async fn read(&self, mut cursor: Cursor, poll: &Poll<'_>, sink: &mut dyn FactSink) -> Result<Cursor, PollError> {
        let failed = |error: std::io::Error| PollError::Temporary(format!("cannot read {}: {error}", self.path.display()));
        let mut file = match File::open(&self.path).await {
            Ok(file) => file,
            // The sandbox makes the file with the first message.
            Err(error) if error.kind() == ErrorKind::NotFound && cursor == Cursor::default() => return Ok(cursor),
            Err(error) => return Err(failed(error)),
        };
        if file.metadata().await.map_err(failed)?.len() < cursor.place {
            tracing::warn!("the sandbox's file of verdicts is shorter than what was read of it; it is read from its start");
            cursor = Cursor::default();
        }
        file.seek(SeekFrom::Start(cursor.place)).await.map_err(failed)?;
        let mut reader = BufReader::with_capacity(BUFFER_OCTETS, file);
        let mut line = Vec::new();
        while Instant::now() < poll.deadline {
            line.clear();
            let read = (&mut reader).take(LINE_OCTETS_MAX).read_until(b'\n', &mut line).await.map_err(failed)? as u64;
            if line.last() != Some(&b'\n') && read < LINE_OCTETS_MAX {
                break; // The end, or a line that is still being written.
            }
            // What is no record is the rest of a line that a crash has cut.
            let record = serde_json::from_slice::<Record>(&line).ok();
            let record = record.filter(|record| poll.watch.in_charge_of(&record.recipient_domain));
            let facts = record.map(|record| facts(self.capabilities, &record)).unwrap_or_default();
            match cursor.tell(facts, cursor.place + read, sink) {
                ControlFlow::Continue(next) => cursor = next,
                ControlFlow::Break(stop) => return Ok(stop),
            }
        }
        Ok(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{Rates, verdict};
    use postwarm_plugin_api::{Report, WatchList, Watched};
    use postwarm_plugin_testkit::instance::instance;
    use serde_json::json;
    use std::io::Write;
    use std::path::Path;
    use std::time::Duration;

    /// Being in charge of these domains; of all where there is none.
    struct Charge<'a>(&'a [&'a str]);

    impl WatchList for Charge<'_> {
        fn page(&self, _: u64, _: usize) -> BoxFuture<'_, Vec<Watched>> {
            Box::pin(async { Vec::new() })
        }

        fn in_charge_of(&self, domain: &str) -> bool {
            self.0.is_empty() || self.0.contains(&domain)
        }
    }

    struct Sink {
        room: usize,
        facts: Vec<Fact>,
    }

    impl FactSink for Sink {
        fn push(&mut self, report: Report) -> bool {
            if let Report::Message(fact) = report {
                self.facts.push(fact);
            }
            self.room -= 1;
            self.room > 0
        }
    }

    async fn poll(dir: &Path, mailboxes: &str, cursor: &str, room: usize) -> (Result<String, PollError>, Vec<Fact>) {
        poll_in_charge(dir, mailboxes, &[], (cursor, room)).await
    }

    async fn poll_in_charge(
        dir: &Path,
        mailboxes: &str,
        domains: &[&str],
        (cursor, room): (&str, usize),
    ) -> (Result<String, PollError>, Vec<Fact>) {
        let instance = Instance { data_dir: dir.to_owned(), ..instance(json!({ "mailboxes": mailboxes }), &[]) };
        let feedback = SandboxFeedback.create(instance).expect("right settings");
        let mut sink = Sink { room, facts: Vec::new() };
        let deadline = Instant::now() + Duration::from_secs(60);
        let cursor = feedback.poll(Poll { cursor, watch: &Charge(domains), deadline }, &mut sink).await;
        (cursor, sink.facts)
    }

    fn append(dir: &Path, text: &str) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file_path(dir)).expect("the file opens");
        file.write_all(text.as_bytes()).expect("the file is written");
    }

    fn lines(domain: &str, count: usize) -> String {
        let line = |n: usize| {
            let (recipient, message_id) = (format!("u{n}@{domain}"), format!("m{n}@x"));
            let record = Record {
                verdict: verdict(1, &Rates::default(), &recipient, &message_id),
                message_id: Some(message_id),
                recipient,
                recipient_domain: domain.into(),
                sender_domain: "x".into(),
                provider: Provider::of_domain(domain),
                at_ms: n as i64,
            };
            serde_json::to_string(&record).expect("JSON") + "\n"
        };
        (0..count).map(line).collect()
    }

    #[tokio::test]
    async fn a_line_counts_once_it_is_whole_and_a_broken_one_is_skipped() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(poll(dir.path(), "open", "", 99).await, (Ok("0".into()), vec![]), "before the first message");
        let whole = lines("example.com", 1);
        append(dir.path(), &whole[..20]);
        assert_eq!(poll(dir.path(), "open", "0", 99).await, (Ok("0".into()), vec![]));
        append(dir.path(), &whole[20..]);
        append(dir.path(), "{\"message_id\":\"cut\n");
        append(dir.path(), &lines("example.com", 2)[whole.len()..]);
        let (cursor, facts) = poll(dir.path(), "open", "0", 99).await;
        let mut ids: Vec<_> = facts.iter().map(|fact| fact.message_id.as_str()).collect();
        ids.dedup();
        assert_eq!(ids, ["m0@x", "m1@x"]);
        let size = std::fs::metadata(file_path(dir.path())).expect("the file").len();
        assert_eq!(cursor, Ok(size.to_string()));
    }

    #[tokio::test]
    async fn small_helpings_give_the_same_facts_as_one_large_poll() {
        let dir = tempfile::tempdir().expect("a folder");
        append(dir.path(), &lines("example.com", 200));
        let (end, all) = poll(dir.path(), "open", "", usize::MAX).await;
        for room in [1, 2, 3, 7] {
            let (mut cursor, mut got) = (String::new(), Vec::new());
            while Ok(&cursor) != end.as_ref() {
                let (next, mut facts) = poll(dir.path(), "open", &cursor, room).await;
                cursor = next.expect("a poll of a good file");
                got.append(&mut facts);
            }
            assert_eq!(got, all, "in helpings of {room}");
        }
    }

    const DOMAINS: [&str; 5] = ["gmail.com", "yahoo.com", "outlook.com", "icloud.com", "example.com"];

    #[tokio::test]
    async fn a_loop_in_charge_of_every_domain_tells_of_every_message_whosever_mailbox_it_is() {
        let dir = tempfile::tempdir().expect("a folder");
        for domain in DOMAINS {
            append(dir.path(), &lines(domain, 200));
        }
        let (_, facts) = poll(dir.path(), "open", "", usize::MAX).await;
        let settled = facts.iter().filter(|fact| matches!(fact.kind, FactKind::Delivered | FactKind::Bounced)).count();
        let text = std::fs::read_to_string(file_path(dir.path())).expect("the file");
        let accepted = text.lines().filter(|line| line.contains("\"rejected\":false")).count();
        assert_eq!(settled, accepted, "of the accepted messages, these are told to be delivered or bounced");
        assert!(accepted > 900, "{accepted}");
    }

    #[tokio::test]
    async fn a_loop_tells_nothing_of_domains_that_are_in_anothers_charge() {
        let dir = tempfile::tempdir().expect("a folder");
        for domain in DOMAINS {
            append(dir.path(), &lines(domain, 50));
        }
        let (end, facts) = poll_in_charge(dir.path(), "open", &["gmail.com", "example.com"], ("", usize::MAX)).await;
        let (_, gmail) = poll_in_charge(dir.path(), "open", &["gmail.com"], ("", usize::MAX)).await;
        let (_, example) = poll_in_charge(dir.path(), "open", &["example.com"], ("", usize::MAX)).await;
        assert!(!gmail.is_empty() && !example.is_empty());
        assert_eq!(facts, [gmail, example].concat());
        let size = std::fs::metadata(file_path(dir.path())).expect("the file").len();
        assert_eq!(end, Ok(size.to_string()), "what others tell is passed over");
    }

    #[tokio::test]
    async fn a_loop_tells_only_what_the_behaviour_can_whatever_the_domain() {
        let dir = tempfile::tempdir().expect("a folder");
        for domain in DOMAINS {
            append(dir.path(), &lines(domain, 2000));
        }
        for (name, kinds) in [
            ("gmail", vec![]),
            ("yahoo", vec![FactKind::Spam, FactKind::Bounced]),
            ("outlook", vec![FactKind::Spam, FactKind::Bounced]),
            ("apple", vec![FactKind::Bounced]),
            ("open", vec![FactKind::Delivered, FactKind::Spam, FactKind::Opened, FactKind::Read, FactKind::Bounced]),
        ] {
            for domain in DOMAINS {
                let (_, facts) = poll_in_charge(dir.path(), name, &[domain], ("", usize::MAX)).await;
                let mut seen: Vec<_> = facts.iter().map(|fact| fact.kind).collect();
                seen.sort();
                seen.dedup();
                assert_eq!(seen, kinds, "{name} in charge of {domain}");
            }
        }
    }

    #[tokio::test]
    async fn a_shorter_file_is_read_anew_and_a_vanished_one_is_a_failure() {
        let dir = tempfile::tempdir().expect("a folder");
        append(dir.path(), &lines("example.com", 1));
        assert!(!poll(dir.path(), "open", "999999", 99).await.1.is_empty());
        std::fs::remove_file(file_path(dir.path())).expect("removed");
        assert!(matches!(poll(dir.path(), "open", "10", 99).await.0, Err(PollError::Temporary(_))));
        assert!(matches!(poll(dir.path(), "open", "x", 99).await.0, Err(PollError::Refused(_))));
    }
}
