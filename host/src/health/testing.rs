//! Events for the tests of health.

use crate::health::store::Ledger;
use crate::model::delivery::{Said, Source, State};
use crate::model::event::{EmailProgressed, Event, FactsReported, Progress, RecipientChanged};
use crate::model::message_id::Tokens;
use crate::model::name::{DeliveryKey, EmailNumber, OrgId, OrgName, UserNumber};
use postwarm_plugin_api::{Fact, FactKind, Reply, Report};

pub fn org() -> OrgName {
    OrgName::parse("acme").unwrap()
}

pub fn message_id(email: i64, user: i64) -> String {
    let key = DeliveryKey { org: OrgId(1), email: EmailNumber(email), user: UserNumber(user) };
    Tokens::new(&[7; 32]).recipient_message_id(key, "acme.example")
}

pub fn accepted(email: i64, recipients: i64) -> Event {
    let (org, email) = (org(), EmailNumber(email));
    Event::Email(EmailProgressed { org, email, progress: Progress::Accepted, from_domain: "acme.example".into(), recipients, at: 1000 })
}

/// A change of a live delivery at a domain and provider by the user's number. A server refused what failed, but for each fifth.
pub fn changed(email: i64, user: i64, attempt: i64, state: State) -> Event {
    let refused = state == State::Failed && user % 5 != 0;
    let reply = refused.then(|| Reply { code: 550, enhanced: None, text: "no such user".to_owned() });
    Event::Recipient(RecipientChanged {
        org: org(),
        email: EmailNumber(email),
        user: UserNumber(user),
        state,
        attempt,
        source: if user > 6 { Source::Backfill } else { Source::Live },
        domain: format!("d{}.example", user % 3).into(),
        provider: format!("p{}", user % 2).into(),
        message_id: message_id(email, user),
        client: Some("relay".into()),
        said: Said { reply, ..Said::default() },
        dropped: state == State::Failed && user % 5 == 0,
        at: 10_000 + attempt * 100 + state as i64,
    })
}

pub fn fact(message_id: String, kind: FactKind) -> Report {
    Report::Message(Fact { message_id, kind, at_ms: Some(20_000), detail: None })
}

pub fn facts(sequence: i64, cursor: &str, reports: Vec<Report>) -> Event {
    let (org, feedback, cursor) = (org(), "loop".into(), cursor.to_owned());
    Event::Facts(FactsReported { org, feedback, sequence, cursor, reports, at: 30_000 + sequence })
}

/// Everything that the ledger answers, as text.
pub async fn answers(ledger: &dyn Ledger) -> String {
    let org = org();
    let mut all = format!("{:#?}", ledger.emails(&org, 0, 100).await.unwrap());
    all += &format!("{:#?}", ledger.loop_state(&org, "loop").await.unwrap());
    all += &format!("{:#?}", ledger.domains(&org, "", 100).await.unwrap());
    for email in 1..=3 {
        for user in 1..=12 {
            let token = crate::model::message_id::RecipientMessageId::parse(&message_id(email, user)).unwrap().token;
            let found = ledger.delivery(&org, email, user, token).await.unwrap();
            // The numbers of names differ from one database to the next.
            let found = found.map(|f| (f.delivery.tally(), f.delivery.attempt, f.delivery.flags, f.domain, f.provider, f.facts));
            all += &format!("{email}.{user} {found:#?}\n");
        }
    }
    all
}
