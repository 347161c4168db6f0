//! The suite for feedback loops.
//!
//! Invariant: the source stays as it is while the suite runs, so that two polls from one cursor must say the same.

use super::basics::{self, CANARY, Create};
use super::{Finding, Report, ensure};
use postwarm_plugin_api::{
    BoxFuture, FactSink, FeedbackFactory, FeedbackLoop, Instance, Kind, Poll, PollError, Report as Told, WatchList, Watched,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most polls that any source of the suite may take.
const POLLS_MAX: usize = 100_000;
/// The longest detail of a fact that is kept, in octets.
const DETAIL_OCTETS_MAX: usize = 512;

/// What the suite needs of a loop.
pub struct Source<'a> {
    pub factory: &'a dyn FeedbackFactory,
    /// Settings for a source that has something to tell, and does not change meanwhile.
    pub instance: Instance,
    /// The messages that it is about.
    pub watch: Vec<Watched>,
    /// Settings for a source that fails, and the cursor to ask it with.
    pub failing: (Instance, String),
}

/// Runs every check over a loop.
pub async fn feedback_loop(source: &Source<'_>) -> Report {
    let descriptor = source.factory.descriptor();
    let create: Create<'_> = &|instance| source.factory.create(instance).map(drop);
    let mut report = Report::new(format!("the feedback loop {}", descriptor.id));
    let instance = || source.instance.clone();
    report.check("the descriptor is valid", async { basics::descriptor(&descriptor, Kind::FeedbackLoop) }).await;
    report.check("making an instance does nothing yet", async { basics::create_does_nothing_yet(create, instance()) }).await;
    report
        .check("an unknown setting is reported with its pointer", async { basics::unknown_setting_is_reported(create, instance()) })
        .await;
    report.check("no problem shows a secret", async { basics::secrets_are_not_shown(create, &descriptor, instance()) }).await;
    report.check("its capabilities are the same before and after a poll, and not none", capabilities(source)).await;
    report.check("it reports something, and only what it declares", declared(source)).await;
    report.check("a poll from the same cursor reports the same", repeated(source)).await;
    report.check("a sink that wants no more is heard, and nothing is lost by it", helpings(source)).await;
    report.check("a poll whose deadline has passed ends", late(source)).await;
    report.check("a source that fails is an error without secrets, and not the absence of news", failing(source)).await;
    report
}

struct Watch<'a>(&'a [Watched]);

impl WatchList for Watch<'_> {
    fn page(&self, after: u64, max: usize) -> BoxFuture<'_, Vec<Watched>> {
        let page = self.0.iter().filter(|watched| watched.position > after).take(max).cloned().collect();
        Box::pin(async { page })
    }
}

/// Takes `room` reports, and says with the last one that it wants no more.
struct Sink {
    room: usize,
    told: Vec<Told>,
    pushed_when_full: bool,
}

impl FactSink for Sink {
    fn push(&mut self, report: Told) -> bool {
        self.pushed_when_full |= self.told.len() >= self.room;
        self.told.push(report);
        self.told.len() < self.room
    }
}

fn make(source: &Source<'_>, instance: &Instance) -> Result<Arc<dyn FeedbackLoop>, String> {
    source.factory.create(instance.clone()).map_err(|problems| format!("the suite's settings are refused: {problems:?}"))
}

async fn poll(feedback: &Arc<dyn FeedbackLoop>, source: &Source<'_>, cursor: &str, sink: &mut Sink) -> Result<String, PollError> {
    let deadline = Instant::now() + Duration::from_secs(50);
    feedback.poll(Poll { cursor, watch: &Watch(&source.watch), deadline }, sink).await
}

/// Polls from the start with all the room that there is.
async fn all(feedback: &Arc<dyn FeedbackLoop>, source: &Source<'_>) -> Result<(String, Vec<Told>), String> {
    let mut sink = Sink { room: usize::MAX, told: Vec::new(), pushed_when_full: false };
    let cursor = poll(feedback, source, "", &mut sink).await.map_err(|error| format!("the poll failed: {error}"))?;
    Ok((cursor, sink.told))
}

async fn capabilities(source: &Source<'_>) -> Finding {
    let feedback = make(source, &source.instance)?;
    let before = feedback.capabilities();
    all(&feedback, source).await?;
    let after = [feedback.capabilities(), make(source, &source.instance)?.capabilities()];
    ensure(after == [before; 2], || format!("{before:?} became {after:?}"))?;
    ensure(before != Default::default(), || "it declares that it can tell nothing".into())
}

async fn declared(source: &Source<'_>) -> Finding {
    let feedback = make(source, &source.instance)?;
    let capabilities = feedback.capabilities();
    let (_, told) = all(&feedback, source).await?;
    ensure(!told.is_empty(), || "it reported nothing of a source that has something to tell".into())?;
    told.iter().try_for_each(|report| match report {
        Told::Message(fact) => {
            ensure(capabilities.allows(fact.kind), || format!("{:?} is not declared", fact.kind))?;
            let id = &fact.message_id;
            ensure(!id.is_empty() && !id.contains(['<', '>', ' ']), || format!("{id:?} is no Message-ID without its brackets"))?;
            ensure(fact.at_ms.is_none_or(|at_ms| at_ms >= 0), || format!("{id} has a time before 1970"))?;
            let detail = fact.detail.as_deref().unwrap_or_default();
            ensure(!detail.contains('@'), || format!("the detail of {id} holds an address"))?;
            ensure(detail.len() <= DETAIL_OCTETS_MAX, || format!("the detail of {id} has {} octets", detail.len()))
        }
        Told::Aggregate(aggregate) => {
            ensure(capabilities.aggregates && is_date(&aggregate.date), || format!("{aggregate:?} is not declared"))
        }
        Told::NoData { date, .. } => ensure(capabilities.aggregates && is_date(date), || format!("no data of {date:?} is not declared")),
    })
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.bytes().enumerate().all(|(n, b)| if n == 4 || n == 7 { b == b'-' } else { b.is_ascii_digit() })
}

async fn repeated(source: &Source<'_>) -> Finding {
    let feedback = make(source, &source.instance)?;
    let (first, second) = (all(&feedback, source).await?, all(&feedback, source).await?);
    ensure(first == second, || format!("{} reports up to {:?}, then {} up to {:?}", first.1.len(), first.0, second.1.len(), second.0))?;
    let another = all(&make(source, &source.instance)?, source).await?;
    ensure(first == another, || "another instance tells something else, so the cursor is not all that it goes by".into())
}

async fn helpings(source: &Source<'_>) -> Finding {
    let (_, wanted) = all(&make(source, &source.instance)?, source).await?;
    for room in [1, 2, 7] {
        let (mut cursor, mut told) = (String::new(), Vec::new());
        for polls in 0.. {
            ensure(polls < POLLS_MAX, || format!("helpings of {room} do not come to an end"))?;
            // Each helping from another instance, as after a restart.
            let feedback = make(source, &source.instance)?;
            let mut sink = Sink { room, told: Vec::new(), pushed_when_full: false };
            let next = poll(&feedback, source, &cursor, &mut sink).await.map_err(|error| format!("the poll failed: {error}"))?;
            ensure(!sink.pushed_when_full, || format!("it went on after the sink, with room for {room}, wanted no more"))?;
            let full = sink.told.len() == room;
            told.append(&mut sink.told);
            ensure(!full || next != cursor || told.len() >= wanted.len(), || format!("the cursor {cursor:?} does not advance"))?;
            cursor = next;
            if !full || told.len() >= wanted.len() {
                break;
            }
        }
        ensure(wanted.iter().all(|report| told.contains(report)), || {
            format!("{} reports came in helpings of {room}, and {} at once", told.len(), wanted.len())
        })?;
    }
    Ok(())
}

async fn late(source: &Source<'_>) -> Finding {
    let feedback = make(source, &source.instance)?;
    let mut sink = Sink { room: usize::MAX, told: Vec::new(), pushed_when_full: false };
    let started = Instant::now();
    let _ = feedback.poll(Poll { cursor: "", watch: &Watch(&source.watch), deadline: started }, &mut sink).await;
    ensure(started.elapsed() < Duration::from_secs(5), || format!("it took {:?}", started.elapsed()))
}

async fn failing(source: &Source<'_>) -> Finding {
    let (mut instance, cursor) = source.failing.clone();
    for secret in instance.secrets.values_mut() {
        *secret = postwarm_plugin_api::Secret::new(CANARY);
    }
    let feedback = make(source, &instance)?;
    let mut sink = Sink { room: usize::MAX, told: Vec::new(), pushed_when_full: false };
    let Err(error) = poll(&feedback, source, &cursor, &mut sink).await else {
        return Err(format!("the poll succeeded and reported {} things", sink.told.len()));
    };
    ensure(!error.to_string().is_empty(), || "the error says nothing".into())?;
    ensure(!format!("{error:?} {error}").contains(CANARY), || "the error shows a secret".into())
}
