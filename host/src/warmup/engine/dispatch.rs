//! One message: rendered, signed, handed to its client; what came back goes to the engine.
//!
//! Invariant: whatever happens to the message, exactly one `Done` comes back for its row.

use crate::clock::{Clock, Now};
use crate::config::settings::Organization;
use crate::model::email::Email;
use crate::model::message_id::Tokens;
use crate::model::name::{EmailNumber, OrgId};
use crate::warmup::render::{Recipient, RenderSettings, Template};
use crate::warmup::store::{Claimed, Queue, StoreError};
use bytes::{Bytes, BytesMut};
use postwarm_plugin_api::{Message, Outcome, Phase, SmtpClient};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The most compiled emails kept.
const TEMPLATES_MAX: usize = 64;

/// Signs what an organization sends.
pub trait Sign: Send + Sync + 'static {
    /// The header lines to put before the others; `None` where no key covers the domain. `Err` says what is wrong.
    fn sign(&self, from_domain: &str, header: &[u8], body: &[u8], now_ms: i64) -> Result<Option<Vec<u8>>, String>;

    /// Tells whether a signature costs so much that it must not run among the connections.
    fn is_slow(&self) -> bool;
}

/// Makes the signer of an organization.
pub trait MakeSigner: Send + Sync + 'static {
    fn make(&self, organization: &Organization) -> Arc<dyn Sign>;
}

/// A row on its way.
pub struct Job {
    pub claimed: Arc<Claimed>,
    pub client: Arc<dyn SmtpClient>,
    pub signer: Arc<dyn Sign>,
    pub settings: Arc<Organization>,
    /// How long the client may take.
    pub deadline: Duration,
    /// Milliseconds since 1970 UTC.
    pub now: i64,
}

/// A row that came back.
pub struct Done {
    pub claimed: Arc<Claimed>,
    /// `Err`: the message cannot be made, in words; it was not handed to the client.
    pub outcome: Result<Outcome, String>,
    pub at: Now,
}

/// An email ready to be rendered, with what its messages share.
pub struct Prepared {
    template: Template,
    links: RenderSettings,
    envelope_from: Arc<str>,
    from_domain: String,
}

/// The compiled emails, those that cannot be compiled included: what is wrong with one is found once.
#[derive(Default)]
pub struct Templates(HashMap<(OrgId, EmailNumber), Compiled>);

/// `Err` says why the email cannot be sent.
pub type Compiled = Result<Arc<Prepared>, String>;

impl Templates {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The email of a row, compiled once.
    ///
    /// # Errors
    /// The database failed; that says nothing of the email.
    pub async fn get(&mut self, queue: &dyn Queue, job: &Job) -> Result<Compiled, StoreError> {
        let key = (job.claimed.delivery.org, job.claimed.delivery.email);
        if let Some(prepared) = self.0.get(&key) {
            return Ok(prepared.clone());
        }
        let compiled = match queue.content(key.0, key.1).await? {
            Some(email) => prepare(&email, &job.settings),
            None => Err("the email is gone".to_owned()),
        };
        if self.0.len() >= TEMPLATES_MAX {
            self.0.clear();
        }
        Ok(self.0.entry(key).or_insert(compiled).clone())
    }
}

fn prepare(email: &Email, settings: &Organization) -> Compiled {
    let links = RenderSettings::of(settings);
    let template = Template::compile(email, &links)
        .map_err(|problems| problems.iter().map(|(at, what)| format!("{at} {what}")).collect::<Vec<_>>().join("; "))?;
    let from = &email.content.from.address;
    Ok(Arc::new(Prepared { template, links, envelope_from: from.as_str().into(), from_domain: from.domain() }))
}

/// Answers for a row even where its task panics.
struct Guard {
    claimed: Option<Arc<Claimed>>,
    handed_over: bool,
    clock: Arc<dyn Clock>,
    finished: mpsc::UnboundedSender<Done>,
}

impl Guard {
    fn finish(&mut self, outcome: Result<Outcome, String>) {
        if let Some(claimed) = self.claimed.take() {
            // The engine may have stopped: then the row is found in `sending` at the next start.
            let _ = self.finished.send(Done { claimed, outcome, at: self.clock.now() });
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let words = "the task that sent it ended without an answer";
        self.finish(match self.handed_over {
            true => Ok(Outcome::Unknown { phase: Phase::EndOfData, detail: words.to_owned() }),
            false => Err(words.to_owned()),
        });
    }
}

pub fn spawn(job: Job, prepared: Arc<Prepared>, tokens: Arc<Tokens>, clock: Arc<dyn Clock>, finished: mpsc::UnboundedSender<Done>) {
    tokio::spawn(async move {
        let mut guard = Guard { claimed: Some(job.claimed.clone()), handed_over: false, clock, finished };
        let made = match job.signer.is_slow() {
            true => {
                let (claimed, signer, now) = (job.claimed.clone(), job.signer.clone(), job.now);
                let make = move || message(&claimed, &prepared, &*signer, &tokens, now);
                tokio::task::spawn_blocking(make).await.unwrap_or_else(|e| Err(e.to_string()))
            }
            false => message(&job.claimed, &prepared, &*job.signer, &tokens, job.now),
        };
        match made {
            Ok(message) => {
                guard.handed_over = true;
                let outcome = job.client.send(message, deadline(job.deadline)).await;
                guard.finish(Ok(outcome));
            }
            Err(words) => guard.finish(Err(words)),
        }
    });
}

fn deadline(after: Duration) -> std::time::Instant {
    std::time::Instant::now() + after
}

/// Makes one recipient's message.
fn message(claimed: &Claimed, prepared: &Prepared, signer: &dyn Sign, tokens: &Tokens, now: i64) -> Result<Message, String> {
    let link = prepared.links.public_url.as_ref().and_then(|_| prepared.links.unsubscribe_url(&tokens.unsubscribe(claimed.delivery)));
    let recipient = Recipient {
        name: &claimed.name,
        address: claimed.address.as_str(),
        message_id: &claimed.message_id,
        unsubscribe_url: link.as_deref(),
    };
    let rendered = prepared.template.render(&recipient, now).map_err(|e| e.to_string())?;
    let header = match signer.sign(&prepared.from_domain, &rendered.header, &rendered.body, now)? {
        Some(signature) => prepended(&signature, &rendered.header),
        None => rendered.header,
    };
    Ok(Message {
        delivery: claimed.delivery.to_string().into(),
        envelope_from: prepared.envelope_from.clone(),
        envelope_to: claimed.address.as_str().into(),
        header,
        body: rendered.body,
        eight_bit: false,
        smtputf8: rendered.smtputf8 || !claimed.address.as_str().is_ascii(),
    })
}

fn prepended(signature: &[u8], header: &[u8]) -> Bytes {
    let mut whole = BytesMut::with_capacity(signature.len() + header.len());
    whole.extend_from_slice(signature);
    whole.extend_from_slice(header);
    whole.freeze()
}
