//! Serves messages over one open session, pipelined where the server allows it (RFC 2920).
//!
//! In the steady state one write carries the content of message k and the envelope of message k + 1, so that a message
//! costs one round trip.
//!
//! Invariant: replies are attributed by position: the content's, the clean-up's, then the envelope's. A reply that
//! nothing awaits ends the connection.
//! Invariant: when the connection breaks, at most one message is unknown: the one whose end of data went unanswered.

use crate::handshake::{Session, quit};
use crate::job::Job;
use crate::pool::{Pool, Wake};
use crate::preflight;
use crate::session::Capabilities;
use crate::settings::Deadlines;
use crate::stuff::Stuffer;
use crate::transaction::{Cleanup, Progress, Transaction};
use crate::verdict::{Broken, phase_deadline, phase_name, refused};
use crate::wire::Wire;
use postwarm_plugin_api::{Cause, Fault, Outcome, Phase};
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// Octets of content that are gathered before a write where a message is large.
const BLOCK_OCTETS: usize = 128 * 1024;
/// How long a QUIT may take; less where the connection's place is wanted.
pub const QUIT_MAX: Duration = Duration::from_secs(5);

/// An open session that serves a pool's queue.
pub struct Connection<'a> {
    wire: Wire,
    capabilities: Capabilities,
    pool: &'a Pool,
    pipelined: bool,
    messages_left: u32,
    /// The message whose content is out and whose reply is awaited.
    content: Option<Job>,
    /// The message whose envelope is out.
    envelope: Option<(Job, Transaction)>,
    /// The message whose content the server waits for.
    ready: Option<Job>,
    /// A message was answered on this connection.
    served: bool,
    cleanup: Cleanup,
    /// The reply to a clean-up command is awaited.
    swallowing: bool,
    /// Since when the next reply is awaited.
    awaited_since: Option<Instant>,
}

impl<'a> Connection<'a> {
    pub fn new(session: Session, pool: &'a Pool) -> Connection<'a> {
        let Session { wire, capabilities } = session;
        let messages_max = pool.settings.messages_per_connection_max;
        Connection {
            pipelined: pool.settings.pipelining && capabilities.pipelining,
            messages_left: capabilities.mail_max.map_or(messages_max, |max| max.min(messages_max)),
            wire,
            capabilities,
            pool,
            content: None,
            envelope: None,
            ready: None,
            served: false,
            cleanup: Cleanup::Nothing,
            swallowing: false,
            awaited_since: None,
        }
    }

    /// Serves until the pool closes, the connection has done its share or has nothing to do, or it breaks.
    pub async fn serve(mut self) {
        match self.run().await {
            Ok(()) if self.cleanup == Cleanup::Close => {}
            Ok(()) => self.pool.part(quit(self.wire, Instant::now() + QUIT_MAX)).await,
            Err(broken) => self.fail(broken),
        }
    }

    async fn run(&mut self) -> Result<(), Broken> {
        loop {
            match self.ready.take() {
                Some(job) => self.write_content(job).await?,
                None if self.open_next().await? => {}
                None => return Ok(()),
            }
            self.collect().await?;
        }
    }

    /// Writes the envelope of the next message; false where this connection shall take no further one.
    async fn open_next(&mut self) -> Result<bool, Broken> {
        loop {
            if self.cleanup == Cleanup::Close {
                return Ok(false);
            }
            let job = if self.messages_left > 0 { self.next_admitted() } else { None };
            if job.is_none() && self.cleanup.command().is_none() {
                if self.messages_left == 0 {
                    return Ok(false);
                }
                match self.idle().await? {
                    Some(job) => self.begin_batch(Some(job)),
                    None => return Ok(false),
                }
            } else {
                self.begin_batch(job);
            }
            self.flush_commands().await?;
            if self.envelope.is_some() {
                return Ok(true);
            }
            self.collect().await?;
        }
    }

    /// Starts a batch with the clean-up that is due and the envelope of `job`, as far as they may go together.
    fn begin_batch(&mut self, job: Option<Job>) {
        let out = self.wire.batch();
        if let Some(command) = std::mem::replace(&mut self.cleanup, Cleanup::Nothing).command() {
            out.extend_from_slice(command);
            self.swallowing = true;
        }
        if let Some(job) = job {
            self.push_envelope(job);
        }
    }

    fn push_envelope(&mut self, job: Job) {
        let transaction = Transaction::begin(&job.message, &self.capabilities, self.pipelined, self.wire.out());
        self.envelope = Some((job, transaction));
        self.messages_left -= 1;
    }

    /// Takes the next job that this server can take; answers those that it cannot. Without pipelining a clean-up that
    /// is due goes alone.
    fn next_admitted(&self) -> Option<Job> {
        if !self.pipelined && self.cleanup.command().is_some() {
            return None;
        }
        while let Some(job) = self.pool.try_pop() {
            match preflight::refuse(&job.message, &self.capabilities) {
                Some(outcome) => job.resolve(outcome),
                None => return Some(job),
            }
        }
        None
    }

    /// Waits for a job; `None` where the connection shall say QUIT. Octets that arrive meanwhile end it.
    async fn idle(&mut self) -> Result<Option<Job>, Broken> {
        let now = Instant::now();
        let (deadline, idler) = (now + self.pool.settings.idle_max, self.pool.idlers.enter(now));
        loop {
            let wire = &mut self.wire;
            let wake = tokio::select! {
                biased;
                wake = self.pool.wait() => wake,
                // Somebody may have been waking it for a job.
                () = idler.is_sent_away() => return Ok(self.next_admitted()),
                end = poll_fn(|cx| match wire.poll_fill(cx) {
                    Poll::Ready(filled) => Poll::Ready(Some(filled)),
                    Poll::Pending => wire.poll_deadline(cx, deadline).map(|()| None),
                }) => return match end {
                    None => Ok(None),
                    Some(filled) => Err(filled.err().map_or_else(|| Broken::session("the server spoke unasked"), Broken::from)),
                },
            };
            let Wake::Job(job) = wake else { return Ok(None) };
            match preflight::refuse(&job.message, &self.capabilities) {
                Some(outcome) => job.resolve(outcome),
                None => return Ok(Some(job)),
            }
        }
    }

    /// Writes the content of `job` and the end of data, and in the same write the envelope of the next message.
    async fn write_content(&mut self, job: Job) -> Result<(), Broken> {
        if self.wire.has_input() {
            self.ready = Some(job);
            return Err(Broken::session("the server sent more replies than it was asked for"));
        }
        if job.is_cancelled() {
            return Err(Broken::session("the message was cancelled"));
        }
        let deadline = job.deadline;
        let block = self.deadlines().content;
        let mut stuffer = Stuffer::default();
        self.wire.batch();
        let (header, body) = (job.message.header.clone(), job.message.body.clone());
        self.content = Some(job);
        for piece in header.chunks(BLOCK_OCTETS).chain(body.chunks(BLOCK_OCTETS)) {
            stuffer.stuff(piece, self.wire.out());
            if self.wire.out().len() >= BLOCK_OCTETS {
                self.wire.flush(block, deadline).await?;
                self.refuse_early_reply().await?;
                self.wire.batch();
            }
        }
        stuffer.end(self.wire.out());
        let dot_end = self.wire.out().len();
        if self.pipelined
            && self.messages_left > 0
            && let Some(next) = self.next_admitted()
        {
            self.push_envelope(next);
        }
        if let Some(job) = &mut self.content {
            job.dot_leaves();
        }
        let flushed = self.wire.flush(block, deadline).await;
        if flushed.is_err()
            && self.wire.handed() < dot_end
            && let Some(job) = &mut self.content
        {
            job.dot_stayed();
        }
        Ok(flushed?)
    }

    /// Looks, without waiting, whether the server spoke before the end of data; that must not be taken for the reply to it.
    async fn refuse_early_reply(&mut self) -> Result<(), Broken> {
        let early = poll_fn(|cx| Poll::Ready(self.wire.poll_fill(cx))).await;
        match early {
            Poll::Pending => Ok(()),
            Poll::Ready(filled) => {
                filled?;
                Err(Broken::session("the server replied before the end of the content"))
            }
        }
    }

    async fn flush_commands(&mut self) -> Result<(), Broken> {
        let limit = self.deadlines().mail;
        let deadline = Instant::now() + limit;
        Ok(self.wire.flush(limit, deadline).await?)
    }

    /// Reads until every awaited reply has come.
    async fn collect(&mut self) -> Result<(), Broken> {
        self.awaited_since = None;
        while self.content.is_some() || self.swallowing || self.envelope.is_some() {
            match self.wire.buffered_reply()? {
                Some(code) => {
                    self.awaited_since = None;
                    if self.on_reply(code)? {
                        self.flush_commands().await?;
                    }
                }
                None => self.fill().await?,
            }
        }
        if self.wire.has_input() {
            return Err(Broken::session("the server sent more replies than it was asked for"));
        }
        Ok(())
    }

    /// Takes one reply; true where a command was added that must be written.
    fn on_reply(&mut self, code: u16) -> Result<bool, Broken> {
        if let Some(job) = self.content.take() {
            return self.on_end_of_data(job, code);
        }
        if self.swallowing {
            self.swallowing = false;
            return match code {
                421 => Err(self.ended("after a refused message")),
                // A lone dot may be refused as the server likes.
                200..=299 | 400..=599 => Ok(false),
                _ => Err(Broken::session("the server's reply makes no sense after a refused message")),
            };
        }
        let Some((job, mut transaction)) = self.envelope.take() else {
            return Err(Broken::session("the server sent more replies than it was asked for"));
        };
        let parser = self.wire.parser();
        match transaction.on_reply(code, || parser.reply()) {
            Progress::Wait => self.envelope = Some((job, transaction)),
            Progress::Content => self.ready = Some(job),
            Progress::Send(phase) => {
                Transaction::push_command(phase, &job.message, self.wire.batch());
                self.envelope = Some((job, transaction));
                return Ok(true);
            }
            Progress::Refused { phase, reply, cleanup } => {
                self.cleanup = cleanup;
                self.served = true;
                job.resolve(refused(self.pool.rules, reply, phase));
            }
            Progress::Ended => return Err(self.end_at_envelope(job, transaction.awaited())),
            Progress::Nonsense => {
                self.envelope = Some((job, transaction));
                return Err(Broken::session(format!("the server's reply makes no sense there: {}", self.wire.parser().reply())));
            }
        }
        Ok(false)
    }

    /// Takes the reply to the end of data, the only one that makes a message accepted.
    fn on_end_of_data(&mut self, job: Job, code: u16) -> Result<bool, Broken> {
        let reply = self.wire.parser().reply();
        self.served = true;
        match code {
            200..=299 => job.resolve(Outcome::Accepted(reply)),
            400..=599 => job.resolve(refused(self.pool.rules, reply, Phase::EndOfData)),
            _ => {
                let detail = format!("the server's reply to the end of data makes no sense: {reply}");
                self.content = Some(job);
                return Err(Broken::session(detail));
            }
        }
        if code == 421 {
            // The message behind it is not to blame, nor is the client.
            return Err(Broken { cause: Cause::Disconnected, ..self.ended("the end of data of the message before") });
        }
        Ok(false)
    }

    /// Takes a 421 to the envelope. One that blames somebody is the message's answer; any other only ends the session,
    /// which blames the client unless the session has served before: servers end long sessions so.
    fn end_at_envelope(&mut self, job: Job, phase: Phase) -> Broken {
        let mut broken = self.ended(phase_name(phase));
        if self.served {
            broken.cause = Cause::Disconnected;
        }
        match refused(self.pool.rules, self.wire.parser().reply(), phase) {
            Outcome::Deferred { fault: Fault::Network, .. } => job.resolve_broken(broken.cause, broken.detail.clone()),
            outcome => job.resolve(outcome),
        }
        broken
    }

    fn ended(&self, place: &str) -> Broken {
        Broken::session(format!("the server ended the session at {place}: {}", self.wire.parser().reply()))
    }

    /// Reads once, for as long as the awaited phase and the message allow, and as long as somebody waits for it.
    async fn fill(&mut self) -> Result<(), Broken> {
        let since = *self.awaited_since.get_or_insert_with(Instant::now);
        let deadlines = self.deadlines();
        let (phase, limit, job_deadline) = match (&self.content, &self.envelope) {
            (Some(job), _) => (Phase::EndOfData, deadlines.end_of_data, Some(job.deadline)),
            (None, Some((job, _))) if self.swallowing => (Phase::Mail, deadlines.mail, Some(job.deadline)),
            (None, Some((job, transaction))) => {
                (transaction.awaited(), phase_deadline(&deadlines, transaction.awaited()), Some(job.deadline))
            }
            (None, None) => (Phase::Mail, deadlines.mail, None),
        };
        let phase_end = since + limit;
        let until = job_deadline.map_or(phase_end, |deadline| deadline.min(phase_end));
        let (wire, content, envelope) = (&mut self.wire, &mut self.content, &mut self.envelope);
        let filled = poll_fn(|cx| {
            if let Poll::Ready(filled) = wire.poll_fill(cx) {
                return Poll::Ready(filled.map_err(Broken::from));
            }
            // A message behind another one must not take that one's reply away; it is found cancelled at its turn.
            let waiting = content.as_mut().or(envelope.as_mut().map(|(job, _)| job));
            if waiting.is_some_and(|job| job.poll_cancelled(cx).is_ready()) {
                return Poll::Ready(Err(Broken { cause: Cause::Disconnected, detail: "the message was cancelled".to_owned() }));
            }
            let late = || Err(Broken::session(format!("no reply to {} within {:?}", phase_name(phase), until - since)));
            wire.poll_deadline(cx, until).map(|()| late())
        });
        filled.await
    }

    /// Answers what was under way when the connection broke.
    fn fail(&mut self, broken: Broken) {
        let Broken { mut cause, detail } = broken;
        // Not its words: they may repeat a recipient.
        tracing::debug!(?cause, "smtp connection ended");
        let had_content = self.content.is_some();
        if let Some(job) = self.content.take() {
            job.resolve_broken(Cause::Disconnected, detail.clone());
            cause = Cause::Disconnected;
        }
        // A server that greets and then closes before it has served anybody turns sessions away.
        if cause == Cause::Disconnected && !self.served && !had_content {
            cause = Cause::Session;
        }
        let behind = self.ready.take().or(self.envelope.take().map(|(job, _)| job));
        if let Some(job) = behind {
            job.resolve_broken(cause, detail);
        }
    }

    fn deadlines(&self) -> Deadlines {
        self.pool.settings.deadlines
    }
}
