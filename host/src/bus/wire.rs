//! The public event schema: versioned JSON, as `docs/events/` describes it.
//!
//! Invariant: the only file that knows how an event looks in the log. An id says the same thing whenever the same event
//! is published again. No record holds an address: texts that servers said are stripped of them here.

mod object;

use crate::bus::Topic;
use crate::bus::batch::{Batch, Texts};
use crate::model::address::without_addresses;
use crate::model::delivery::{Said, Source, State};
use crate::model::event::{EmailProgressed, Event, FactsReported, Progress, RecipientChanged};
use crate::model::name::{EmailNumber, OrgName, UserNumber};
use object::{Fields, push_number, push_text};
use postwarm_plugin_api::{Fault, Reply, Report};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The version of all three schemas.
pub const VERSION: u32 = 1;

/// Why a record is no event.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the record is no event of this schema: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the event has schema version {0}; this program knows {VERSION}")]
    Version(u32),
    #[error("the event's {0} is not valid")]
    Field(&'static str),
}

/// The topic that has such events.
pub fn topic_of(event: &Event) -> Topic {
    match event {
        Event::Email(_) => Topic::Emails,
        Event::Recipient(_) => Topic::Recipients,
        Event::Facts(_) => Topic::Facts,
    }
}

/// Adds an event to a batch.
pub fn push(batch: &mut Batch, event: &Event) {
    match event {
        Event::Email(e) => push_email(batch, e),
        Event::Recipient(e) => push_recipient(batch, e),
        Event::Facts(e) => push_facts(batch, e),
    }
}

/// Writes an event as the only record of a batch.
pub fn encode(event: &Event) -> Batch {
    let mut batch = Batch::default();
    push(&mut batch, event);
    batch
}

/// Reads an event. Fields that it does not know are ignored: a later program may add some.
pub fn decode(topic: Topic, payload: &[u8]) -> Result<Event, WireError> {
    match topic {
        Topic::Emails => decode_email(serde_json::from_slice(payload)?).map(Event::Email),
        Topic::Recipients => {
            let wire = match recipient_as_written(payload) {
                Some(wire) => wire,
                None => serde_json::from_slice(payload)?,
            };
            decode_recipient(wire).map(Event::Recipient)
        }
        Topic::Facts => decode_facts(serde_json::from_slice(payload)?).map(Event::Facts),
    }
}

#[derive(Serialize, Deserialize)]
struct EmailWire<'a> {
    version: u32,
    #[serde(borrow)]
    organization: Cow<'a, str>,
    email_id: i64,
    #[serde(borrow)]
    progress: Cow<'a, str>,
    #[serde(borrow)]
    from_domain: Cow<'a, str>,
    recipients: i64,
    at_ms: i64,
}

#[derive(Debug, PartialEq, Deserialize)]
struct RecipientWire<'a> {
    version: u32,
    #[serde(borrow)]
    organization: Cow<'a, str>,
    email_id: i64,
    user_id: i64,
    #[serde(borrow)]
    state: Cow<'a, str>,
    attempt: i64,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    domain: Cow<'a, str>,
    #[serde(borrow)]
    provider: Cow<'a, str>,
    #[serde(borrow)]
    message_id: Cow<'a, str>,
    #[serde(borrow, default)]
    client: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reply: Option<ReplyWire<'a>>,
    #[serde(default)]
    fault: Option<Fault>,
    #[serde(borrow, default)]
    detail: Option<Cow<'a, str>>,
    #[serde(default)]
    dropped: bool,
    at_ms: i64,
}

#[derive(Debug, PartialEq, Deserialize)]
struct ReplyWire<'a> {
    code: u16,
    #[serde(borrow, default)]
    enhanced: Option<Cow<'a, str>>,
    #[serde(borrow)]
    text: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct FactsWire<'a> {
    version: u32,
    #[serde(borrow)]
    organization: Cow<'a, str>,
    #[serde(borrow)]
    feedback: Cow<'a, str>,
    sequence: i64,
    #[serde(borrow)]
    cursor: Cow<'a, str>,
    reports: Cow<'a, [Report]>,
    at_ms: i64,
}

fn push_email(batch: &mut Batch, e: &EmailProgressed) {
    let wire = EmailWire {
        version: VERSION,
        organization: e.org.as_str().into(),
        email_id: e.email.0,
        progress: progress_text(e.progress).into(),
        from_domain: e.from_domain.as_str().into(),
        recipients: e.recipients,
        at_ms: e.at,
    };
    let kind = match e.progress {
        Progress::Accepted => "postwarm.email.accepted.v1",
        Progress::Started => "postwarm.email.started.v1",
        Progress::Completed => "postwarm.email.completed.v1",
    };
    let key = format!("{}/{}", e.org, e.email.0);
    let id = format!("{key}/{}", wire.progress);
    push_texts(batch.begin(Topic::Emails, e.at), [&key, &id, kind, e.org.as_str()], &wire);
}

fn push_recipient(batch: &mut Batch, e: &RecipientChanged) {
    let org = e.org.as_str().as_bytes();
    let path = |out: &mut Vec<u8>, numbers: &[(&str, i64)]| {
        out.extend_from_slice(org);
        numbers.iter().for_each(|(before, number)| push_number(out, before, *number));
    };
    batch
        .begin(Topic::Recipients, e.at)
        .written(|out| path(out, &[("/", e.email.0), (".", e.user.0)]))
        .written(|out| {
            path(out, &[("/", e.email.0), ("/", e.user.0), ("/", e.attempt)]);
            out.push(b'/');
            out.extend_from_slice(e.state.as_str().as_bytes());
        })
        .text(recipient_kind(e.state).as_bytes())
        .text(org)
        .written(|out| write_recipient(out, e));
}

/// What stands before the values of a recipient's event.
mod before {
    pub const VERSION: &str = "{\"version\":";
    pub const ORGANIZATION: &str = ",\"organization\":\"";
    pub const EMAIL: &str = ",\"email_id\":";
    pub const USER: &str = ",\"user_id\":";
    pub const STATE: &str = ",\"state\":\"";
    pub const ATTEMPT: &str = ",\"attempt\":";
    pub const SOURCE: &str = ",\"source\":\"";
    pub const DOMAIN: &str = ",\"domain\":\"";
    pub const PROVIDER: &str = ",\"provider\":\"";
    pub const MESSAGE_ID: &str = ",\"message_id\":\"";
    pub const CLIENT: &str = ",\"client\":\"";
    pub const CODE: &str = ",\"reply\":{\"code\":";
    pub const ENHANCED: &str = ",\"enhanced\":\"";
    pub const TEXT: &str = ",\"text\":\"";
    pub const AT: &str = ",\"at_ms\":";
    /// Behind a reply.
    pub const AT_BEHIND: &str = "},\"at_ms\":";
}

/// Writes the fields of `RecipientWire` in their order, without those that say nothing.
fn write_recipient(out: &mut Vec<u8>, e: &RecipientChanged) {
    push_number(out, before::VERSION, VERSION.into());
    push_text(out, before::ORGANIZATION, e.org.as_str());
    push_number(out, before::EMAIL, e.email.0);
    push_number(out, before::USER, e.user.0);
    push_text(out, before::STATE, e.state.as_str());
    push_number(out, before::ATTEMPT, e.attempt);
    push_text(out, before::SOURCE, e.source.as_str());
    push_text(out, before::DOMAIN, &e.domain);
    push_text(out, before::PROVIDER, &e.provider);
    push_text(out, before::MESSAGE_ID, &e.message_id);
    if let Some(client) = &e.client {
        push_text(out, before::CLIENT, client);
    }
    if let Some(reply) = &e.said.reply {
        push_number(out, before::CODE, reply.code.into());
        if let Some(enhanced) = reply.enhanced {
            push_text(out, before::ENHANCED, &enhanced.to_string());
        }
        push_text(out, before::TEXT, &without_addresses(&reply.text));
        out.push(b'}');
    }
    if let Some(fault) = &e.said.fault {
        out.extend_from_slice(b",\"fault\":");
        push_json(out, fault);
    }
    if let Some(detail) = &e.said.detail {
        push_text(out, ",\"detail\":\"", &without_addresses(detail));
    }
    if e.dropped {
        out.extend_from_slice(b",\"dropped\":true");
    }
    push_number(out, before::AT, e.at);
    out.push(b'}');
}

/// Reads what `write_recipient` writes of a message that was sent; `None` for all else, which the general way reads.
fn recipient_as_written(payload: &[u8]) -> Option<RecipientWire<'_>> {
    let mut fields = Fields::of(payload)?;
    let wire = RecipientWire {
        version: fields.number(before::VERSION)?.try_into().ok()?,
        organization: fields.text(before::ORGANIZATION)?,
        email_id: fields.number(before::EMAIL)?,
        user_id: fields.number(before::USER)?,
        state: fields.text(before::STATE)?,
        attempt: fields.number(before::ATTEMPT)?,
        source: fields.text(before::SOURCE)?,
        domain: fields.text(before::DOMAIN)?,
        provider: fields.text(before::PROVIDER)?,
        message_id: fields.text(before::MESSAGE_ID)?,
        client: Some(fields.text(before::CLIENT)?),
        reply: Some(ReplyWire {
            code: fields.number(before::CODE)?.try_into().ok()?,
            enhanced: Some(fields.text(before::ENHANCED)?),
            text: fields.text(before::TEXT)?,
        }),
        fault: None,
        detail: None,
        dropped: false,
        at_ms: fields.number(before::AT_BEHIND)?,
    };
    fields.end().map(|()| wire)
}

fn recipient_kind(state: State) -> &'static str {
    match state {
        State::Queued => "postwarm.recipient.queued.v1",
        State::Deferred => "postwarm.recipient.deferred.v1",
        State::Sending => "postwarm.recipient.sending.v1",
        State::Sent => "postwarm.recipient.sent.v1",
        State::Failed => "postwarm.recipient.failed.v1",
        State::Suppressed => "postwarm.recipient.suppressed.v1",
        State::Unknown => "postwarm.recipient.unknown.v1",
    }
}

fn push_facts(batch: &mut Batch, e: &FactsReported) {
    let told = |r: &Report| matches!(r, Report::Message(f) if f.detail.as_ref().is_some_and(|d| d.contains('@')));
    let reports =
        if e.reports.iter().any(told) { e.reports.iter().cloned().map(report_without_addresses).collect() } else { Cow::from(&e.reports) };
    let wire = FactsWire {
        version: VERSION,
        organization: e.org.as_str().into(),
        feedback: (&*e.feedback).into(),
        sequence: e.sequence,
        cursor: e.cursor.as_str().into(),
        reports,
        at_ms: e.at,
    };
    let key = format!("{}/{}", e.org, e.feedback);
    let id = format!("{key}/{}", e.sequence);
    push_texts(batch.begin(Topic::Facts, e.at), [&key, &id, "postwarm.facts.reported.v1", e.org.as_str()], &wire);
}

fn push_texts<T: Serialize>(record: Texts<'_>, texts: [&str; 4], wire: &T) {
    let record = texts.into_iter().fold(record, |record, text| record.text(text.as_bytes()));
    record.written(|out| push_json(out, wire));
}

fn push_json<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("strings and numbers are always JSON, and a Vec takes all bytes");
}

fn decode_email(wire: EmailWire<'_>) -> Result<EmailProgressed, WireError> {
    Ok(EmailProgressed {
        org: organization(wire.version, &wire.organization)?,
        email: EmailNumber(number(wire.email_id, "email_id")?),
        progress: match &*wire.progress {
            "accepted" => Progress::Accepted,
            "started" => Progress::Started,
            "completed" => Progress::Completed,
            _ => return Err(WireError::Field("progress")),
        },
        from_domain: wire.from_domain.into_owned(),
        recipients: Some(wire.recipients).filter(|r| *r >= 0).ok_or(WireError::Field("recipients"))?,
        at: wire.at_ms,
    })
}

fn decode_recipient(wire: RecipientWire<'_>) -> Result<RecipientChanged, WireError> {
    let reply = wire.reply.map(|r| {
        let enhanced = r.enhanced.as_deref().map(|e| e.parse().map_err(|_| WireError::Field("reply.enhanced"))).transpose()?;
        Ok::<_, WireError>(Reply { code: r.code, enhanced, text: r.text.into_owned() })
    });
    Ok(RecipientChanged {
        org: organization(wire.version, &wire.organization)?,
        email: EmailNumber(number(wire.email_id, "email_id")?),
        user: UserNumber(number(wire.user_id, "user_id")?),
        state: State::parse(&wire.state).ok_or(WireError::Field("state"))?,
        attempt: Some(wire.attempt).filter(|a| *a >= 0).ok_or(WireError::Field("attempt"))?,
        source: match &*wire.source {
            "live" => Source::Live,
            "backfill" => Source::Backfill,
            _ => return Err(WireError::Field("source")),
        },
        domain: (&*wire.domain).into(),
        provider: (&*wire.provider).into(),
        message_id: wire.message_id.into_owned(),
        client: wire.client.map(|c| (&*c).into()),
        said: Said { reply: reply.transpose()?, fault: wire.fault, detail: wire.detail.map(Cow::into_owned) },
        dropped: wire.dropped,
        at: wire.at_ms,
    })
}

fn decode_facts(wire: FactsWire<'_>) -> Result<FactsReported, WireError> {
    Ok(FactsReported {
        org: organization(wire.version, &wire.organization)?,
        feedback: (&*wire.feedback).into(),
        sequence: number(wire.sequence, "sequence")?,
        cursor: wire.cursor.into_owned(),
        reports: wire.reports.into_owned(),
        at: wire.at_ms,
    })
}

fn organization(version: u32, name: &str) -> Result<OrgName, WireError> {
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    OrgName::parse(name).map_err(|_| WireError::Field("organization"))
}

fn number(number: i64, field: &'static str) -> Result<i64, WireError> {
    Some(number).filter(|n| *n > 0).ok_or(WireError::Field(field))
}

fn progress_text(progress: Progress) -> &'static str {
    match progress {
        Progress::Accepted => "accepted",
        Progress::Started => "started",
        Progress::Completed => "completed",
    }
}

fn report_without_addresses(report: Report) -> Report {
    match report {
        Report::Message(mut fact) => {
            fact.detail = fact.detail.map(|d| without_addresses(&d).into_owned());
            Report::Message(fact)
        }
        other => other,
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
