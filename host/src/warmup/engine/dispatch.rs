//! One message: rendered, signed, handed to its client; what came back goes to the engine.
//!
//! Invariant: whatever happens to the message, exactly one `Done` comes back for its row.

use crate::config::settings::Organization;
use crate::model::email::Email;
use crate::model::message_id::Tokens;
use crate::model::name::{EmailNumber, OrgId};
use crate::model::number_map::NumberMap;
use crate::warmup::engine::returns::{Back, Done, Unmade};
use crate::warmup::marks::Marker;
use crate::warmup::render::{Recipient, RenderSettings, Template};
use crate::warmup::sign::body_hash;
use crate::warmup::store::{Claimed, Queue};
use bytes::{Bytes, BytesMut};
use postwarm_plugin_api::{Mark, Message, Outcome, Phase, SmtpClient};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long one call of a client may take; its own deadlines are shorter.
const SEND_MAX: Duration = Duration::from_secs(3600);

/// The most compiled emails kept: one for each of many organizations that broadcast at once.
const TEMPLATES_MAX: usize = 2_048;
/// What a line of a text takes besides its octets where the text names its recipient.
const LINE_OCTETS: usize = 256;
/// The most octets of compiled emails kept; one alone may be larger.
const TEMPLATES_OCTETS_MAX: usize = 16 << 20;

/// Answers the hash of a body that a signature covers, for those who sign.
pub type BodyHash<'a> = &'a dyn Fn() -> [u8; 32];

/// Signs what an organization sends.
pub trait Sign: Send + Sync + 'static {
    /// The header lines to put before the others; `None` where no key covers the domain. `Err` says what is wrong.
    fn sign(&self, from_domain: &str, header: &[u8], body: BodyHash<'_>, now_ms: i64) -> Result<Option<Vec<u8>>, String>;

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
    pub prepared: Arc<Prepared>,
    pub signer: Arc<dyn Sign>,
    pub tokens: Arc<Tokens>,
    /// `None` where what leaves is not marked.
    pub marker: Option<Marker>,
    /// Milliseconds since 1970 UTC.
    pub now: i64,
}

/// An email ready to be rendered, with what its messages share.
pub struct Prepared {
    template: Template,
    links: RenderSettings,
    envelope_from: Arc<str>,
    from_domain: String,
    /// The hash of the body that all its messages have, once one was signed.
    shared_hash: OnceLock<[u8; 32]>,
}

/// The compiled emails, those that cannot be compiled included: what is wrong with one is found once.
#[derive(Default)]
pub struct Templates {
    kept: NumberMap<(OrgId, EmailNumber), Kept>,
    /// The sum of what is kept.
    octets: usize,
    uses: u64,
}

/// `Err` says why the email cannot be sent.
type Compiled = Result<Arc<Prepared>, Unmade>;

struct Kept {
    compiled: Compiled,
    octets: usize,
    used: u64,
}

impl Templates {
    pub fn clear(&mut self) {
        *self = Templates::default();
    }

    /// The email of a row, compiled once.
    ///
    /// # Errors
    /// Why it cannot be sent: ever, or for now.
    pub async fn get(&mut self, queue: &dyn Queue, row: &Claimed, settings: &Organization) -> Result<Arc<Prepared>, Unmade> {
        let key = (row.delivery.org, row.delivery.email);
        self.uses += 1;
        if let Some(kept) = self.kept.get_mut(&key) {
            kept.used = self.uses;
            return kept.compiled.clone();
        }
        let content = queue.content(key.0, key.1).await.map_err(|error| {
            tracing::error!(%error, "an email could not be read; its messages are tried again");
            Unmade::Now(format!("an email cannot be read: {error}"))
        })?;
        let (compiled, octets) = match content {
            Some(email) => {
                let compiled = prepare(&email, settings);
                let octets = octets(&email, &compiled);
                (compiled, octets)
            }
            None => (Err(Unmade::Content("the email is gone".to_owned())), 0),
        };
        self.make_room(octets);
        self.octets += octets;
        self.kept.insert(key, Kept { compiled: compiled.clone(), octets, used: self.uses });
        compiled
    }

    /// Forgets the emails that were used the longest time ago.
    fn make_room(&mut self, octets: usize) {
        while self.kept.len() >= TEMPLATES_MAX || (self.octets + octets > TEMPLATES_OCTETS_MAX && !self.kept.is_empty()) {
            let Some(oldest) = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key) else { return };
            self.octets -= self.kept.remove(&oldest).map_or(0, |kept| kept.octets);
        }
    }
}

/// What a compiled email keeps, roughly: its text and what is encoded of it; or what its messages are put together from.
fn octets(email: &Email, compiled: &Compiled) -> usize {
    let content = &email.content;
    let texts = [Some(&content.subject), Some(&content.body), content.html.as_ref()];
    let is_personal = compiled.as_ref().is_ok_and(|prepared| !prepared.template.shares_body());
    let line_ends = |text: &str| text.bytes().filter(|byte| matches!(byte, b'\r' | b'\n')).count();
    let of = |text: &String| if is_personal { 4 * text.len() + LINE_OCTETS * line_ends(text) } else { 2 * text.len() };
    texts.into_iter().flatten().map(of).sum()
}

fn prepare(email: &Email, settings: &Organization) -> Compiled {
    let links = RenderSettings::of(settings);
    let words = |found: Vec<(String, String)>| found.iter().map(|(at, what)| format!("{at} {what}")).collect::<Vec<_>>().join("; ");
    let template = Template::compile(email, &links).map_err(|problems| Unmade::Content(words(problems)))?;
    let from = &email.content.from.address;
    Ok(Arc::new(Prepared {
        template,
        links,
        envelope_from: from.as_str().into(),
        from_domain: from.domain(),
        shared_hash: OnceLock::new(),
    }))
}

/// Answers for a row even where its task panics.
struct Guard<'a> {
    claimed: Option<Arc<Claimed>>,
    marker: Option<Marker>,
    handed_over: bool,
    back: &'a Back,
}

impl Guard<'_> {
    fn finish(&mut self, outcome: Result<Outcome, Unmade>) {
        let Some(claimed) = self.claimed.take() else { return };
        let at = self.back.clock.now();
        // Before the engine sees it: then the place may go to another row at any time.
        match (&self.marker, &outcome) {
            // A client that does not mark was taken for one that may have sent it.
            (Some(marker), Ok(Outcome::NotAttempted { .. })) => marker.unsent(),
            (Some(marker), Ok(outcome)) => marker.answered(outcome, at.wall_ms),
            _ => {}
        }
        self.back.returns.push(Done { claimed, outcome, at });
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let words = "the task that sent it ended without an answer";
        self.finish(match self.handed_over {
            true => Ok(Outcome::Unknown { phase: Phase::EndOfData, detail: words.to_owned() }),
            false => Err(Unmade::Now(words.to_owned())),
        });
    }
}

/// Makes a message and hands it to its client.
pub async fn send(mut job: Job, client: &Arc<dyn SmtpClient>, back: &Back) {
    let mut guard = Guard { claimed: Some(job.claimed.clone()), marker: job.marker.take(), handed_over: false, back };
    let made = match job.signer.is_slow() {
        true => {
            let making = tokio::task::spawn_blocking(move || message(&job));
            making.await.unwrap_or_else(|e| Err(Unmade::Now(format!("the message was not made: {e}"))))
        }
        false => message(&job),
    };
    match made {
        Ok(mut message) => {
            guard.handed_over = true;
            message.mark = guard.marker.as_ref().and_then(|marker| hand_over(marker, &**client));
            let outcome = client.send(message, Instant::now() + SEND_MAX).await;
            guard.finish(Ok(outcome));
        }
        Err(unmade) => guard.finish(Err(unmade)),
    }
}

/// Marks that the client has the message now; the mark of its end of data is for the client to set, or set here for one that does not.
fn hand_over(marker: &Marker, client: &dyn SmtpClient) -> Option<Mark> {
    marker.handed();
    if client.marks_end_of_data() {
        return Some(marker.mark());
    }
    marker.left();
    None
}

/// Makes one recipient's message.
fn message(job: &Job) -> Result<Message, Unmade> {
    let Job { claimed, prepared, signer, tokens, now, .. } = job;
    let link = prepared.links.public_url.as_ref().and_then(|_| prepared.links.unsubscribe_url(&tokens.unsubscribe(claimed.delivery)));
    let recipient = Recipient {
        name: &claimed.name,
        address: claimed.address.as_str(),
        message_id: &claimed.message_id,
        unsubscribe_url: link.as_deref(),
    };
    let rendered = prepared.template.render(&recipient, *now).map_err(|e| Unmade::Content(e.to_string()))?;
    let hash = || match prepared.template.shares_body() {
        true => *prepared.shared_hash.get_or_init(|| body_hash(&rendered.body)),
        false => body_hash(&rendered.body),
    };
    let header = match signer.sign(&prepared.from_domain, &rendered.header, &hash, *now).map_err(Unmade::Now)? {
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
        mark: None,
    })
}

fn prepended(signature: &[u8], header: &[u8]) -> Bytes {
    let mut whole = BytesMut::with_capacity(signature.len() + header.len());
    whole.extend_from_slice(signature);
    whole.extend_from_slice(header);
    whole.freeze()
}
