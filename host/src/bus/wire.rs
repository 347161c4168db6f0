//! The public event schema: versioned JSON, as `docs/events/` describes it.
//!
//! Invariant: the only file that knows how an event looks in the log. An id says the same thing whenever the same event
//! is published again. No record holds an address: texts that servers said are stripped of them here.

use crate::bus::{Record, Topic};
use crate::model::address::without_addresses;
use crate::model::delivery::{Said, Source, State};
use crate::model::event::{EmailProgressed, Event, FactsReported, Progress, RecipientChanged};
use crate::model::name::{EmailNumber, OrgName, UserNumber};
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

/// Writes an event as a record.
pub fn encode(event: &Event) -> Record {
    match event {
        Event::Email(e) => encode_email(e),
        Event::Recipient(e) => encode_recipient(e),
        Event::Facts(e) => encode_facts(e),
    }
}

/// Reads an event. Fields that it does not know are ignored: a later program may add some.
pub fn decode(topic: Topic, payload: &[u8]) -> Result<Event, WireError> {
    match topic {
        Topic::Emails => decode_email(serde_json::from_slice(payload)?).map(Event::Email),
        Topic::Recipients => decode_recipient(serde_json::from_slice(payload)?).map(Event::Recipient),
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

#[derive(Serialize, Deserialize)]
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
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    client: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reply: Option<ReplyWire<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    detail: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dropped: bool,
    at_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct ReplyWire<'a> {
    code: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enhanced: Option<String>,
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

fn encode_email(e: &EmailProgressed) -> Record {
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
    record(Topic::Emails, key, id, kind, e.org.as_str(), e.at, &wire)
}

fn encode_recipient(e: &RecipientChanged) -> Record {
    let reply = e.said.reply.as_ref().map(|r| ReplyWire {
        code: r.code,
        enhanced: r.enhanced.map(|e| e.to_string()),
        text: without_addresses(&r.text),
    });
    let wire = RecipientWire {
        version: VERSION,
        organization: e.org.as_str().into(),
        email_id: e.email.0,
        user_id: e.user.0,
        state: e.state.as_str().into(),
        attempt: e.attempt,
        source: e.source.as_str().into(),
        domain: (&*e.domain).into(),
        provider: (&*e.provider).into(),
        message_id: e.message_id.as_str().into(),
        client: e.client.as_deref().map(Cow::from),
        reply,
        fault: e.said.fault,
        detail: e.said.detail.as_deref().map(without_addresses),
        dropped: e.dropped,
        at_ms: e.at,
    };
    let kind = recipient_kind(e.state);
    let key = format!("{}/{}.{}", e.org, e.email.0, e.user.0);
    let id = format!("{}/{}/{}/{}/{}", e.org, e.email.0, e.user.0, e.attempt, wire.state);
    record(Topic::Recipients, key, id, kind, e.org.as_str(), e.at, &wire)
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

/// The state that a recipient has come to; `None` for other events.
pub fn state_of(record: &Record) -> Option<State> {
    State::ALL.into_iter().find(|state| recipient_kind(*state) == record.kind)
}

fn encode_facts(e: &FactsReported) -> Record {
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
    record(Topic::Facts, key, id, "postwarm.facts.reported.v1", e.org.as_str(), e.at, &wire)
}

fn record<T: Serialize>(topic: Topic, key: String, id: String, kind: &'static str, org: &str, at: i64, wire: &T) -> Record {
    let mut payload = Vec::with_capacity(320);
    serde_json::to_writer(&mut payload, wire).expect("strings and numbers are always JSON, and a Vec takes all bytes");
    Record { topic, key, id, kind: kind.into(), org: org.to_owned(), at, payload }
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
