use super::*;
use crate::bus::embedded::EmbeddedLog;
use crate::bus::sealed::Sealed;
use crate::bus::{Consumer, Position, Topic, contract};
use crate::clock::ManualClock;
use crate::config::settings::FeedbackEntry;
use crate::health::charge::{LoopStatus, Origin};
use crate::health::projector::Projector;
use crate::health::sqlite::SqliteLedger;
use crate::health::testing::{changed, fact, message_id, org};
use crate::model::delivery::State;
use postwarm_plugin_api::{Capabilities, FactKind, FactSink, FeedbackLoop, Report};
use std::collections::VecDeque;

type Answer = Result<(Vec<Report>, &'static str), PollError>;

/// Answers as it was told, then nothing new; remembers the cursors and the watch list that it was shown.
#[derive(Default)]
struct Scripted {
    answers: Mutex<VecDeque<Answer>>,
    cursors: Mutex<Vec<String>>,
    watched: Mutex<Vec<String>>,
}

impl Scripted {
    fn new(answers: impl IntoIterator<Item = Answer>) -> Arc<Scripted> {
        Arc::new(Scripted { answers: Mutex::new(answers.into_iter().collect()), ..Scripted::default() })
    }

    fn cursors(&self) -> Vec<String> {
        self.cursors.lock().unwrap().clone()
    }
}

impl FeedbackLoop for Scripted {
    fn capabilities(&self) -> Capabilities {
        Capabilities { delivered: true, read: true, ..Capabilities::default() }
    }

    fn poll<'a>(&'a self, poll: Poll<'a>, sink: &'a mut dyn FactSink) -> BoxFuture<'a, Result<String, PollError>> {
        Box::pin(async move {
            self.cursors.lock().unwrap().push(poll.cursor.to_owned());
            let watched = poll.watch.page(0, 100).await.into_iter().map(|w| w.message_id).collect();
            *self.watched.lock().unwrap() = watched;
            let answer = self.answers.lock().unwrap().pop_front();
            let (reports, cursor) = answer.unwrap_or_else(|| Ok((Vec::new(), "")))?;
            assert_ne!(cursor, "panic", "as the test wants");
            reports.into_iter().for_each(|report| {
                sink.push(report);
            });
            Ok(if cursor.is_empty() { poll.cursor.to_owned() } else { cursor.to_owned() })
        })
    }
}

const INTERVAL: Duration = Duration::from_secs(30);

fn handle(name: &str, domains: &[&str], feedback: Arc<dyn FeedbackLoop>) -> LoopHandle {
    let entry = FeedbackEntry {
        name: name.into(),
        plugin: "scripted".into(),
        domains: domains.iter().map(|d| (*d).to_owned()).collect(),
        interval: INTERVAL,
        settings: serde_json::Map::new(),
        secrets: Default::default(),
    };
    LoopHandle { org: org(), name: name.into(), entry, origin: Origin::default(), feedback }
}

struct Bench {
    clock: Arc<ManualClock>,
    ledger: Arc<SqliteLedger>,
    log: Arc<EmbeddedLog>,
    pollers: Pollers,
    projector: Arc<Projector>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn start() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(1_000_000));
        let ledger = Arc::new(SqliteLedger::open(&folder.path().join("health.db")).unwrap());
        let log = Arc::new(EmbeddedLog::open(folder.path(), Duration::from_secs(1_000_000), clock.clone()).unwrap());
        let projector = Arc::new(Projector::new(log.clone(), ledger.clone(), clock.clone(), Duration::from_secs(1_000_000)));
        let (ledger_port, log_port, clock_port) = (ledger.clone(), log.clone(), clock.clone());
        let shared = Shared { ledger: ledger_port, log: log_port, clock: clock_port, applied: projector.applied(), seed: 1 };
        let (running, stop) = (projector.clone(), CancellationToken::new());
        let until = stop.clone();
        tokio::spawn(async move { running.run(until).await });
        Bench { clock, ledger, log, pollers: Pollers::new(shared), projector, stop, _folder: folder }
    }

    /// Three messages are sent: at d1, d2 and d0.
    async fn with_mail() -> Bench {
        let bench = Bench::start();
        let sent = (1..=3).map(|user| wire::encode(&changed(1, user, 1, State::Sent)));
        bench.log.publish(contract::sealed(sent)).await.unwrap();
        bench.projector.applied().wait_for(|a| a.commits > 0).await.unwrap();
        bench
    }

    fn status(&self, name: &str) -> LoopStatus {
        self.pollers.charge().all().iter().find(|l| &*l.handle.name == name).expect("it runs").status()
    }

    /// Lets the time of the next poll come and waits until its outcome shows.
    async fn next_poll(&self, name: &str) -> LoopStatus {
        let before = self.status(name).next_check_at;
        self.clock.advance(INTERVAL * 2);
        loop {
            let status = self.status(name);
            if status.next_check_at != before {
                // The worker waits by now: it noted its status and went on to sleep in one go.
                return status;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn first_poll(&self, name: &str) -> LoopStatus {
        loop {
            match self.status(name) {
                status if status.next_check_at.is_some() => return status,
                _ => tokio::task::yield_now().await,
            }
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn a_poll_gets_the_cursor_of_the_last_one_and_sees_newly_sent_messages() {
    let bench = Bench::with_mail().await;
    let first = fact(message_id(1, 1), FactKind::Delivered);
    let feedback = Scripted::new([Ok((vec![first], "one")), Ok((vec![], "two"))]);
    bench.pollers.set(vec![handle("loop", &["*"], feedback.clone())]);
    bench.first_poll("loop").await;
    assert_eq!(feedback.watched.lock().unwrap().len(), 3);
    bench.log.publish(wire::encode(&changed(1, 4, 1, State::Sent)).seal()).await.unwrap();
    let commits = bench.projector.applied().borrow().commits;
    bench.projector.applied().wait_for(|a| a.commits > commits || a.commits >= 3).await.unwrap();
    bench.next_poll("loop").await;
    let status = bench.next_poll("loop").await;
    assert_eq!(feedback.cursors(), ["", "one", "two"]);
    assert_eq!(feedback.watched.lock().unwrap().len(), 4);
    assert_eq!((status.last_error, status.refused), (None, 0));
    let state = bench.ledger.loop_state(&org(), "loop").await.unwrap();
    assert_eq!((state.sequence, state.cursor.as_str()), (2, "two"), "the third poll changed nothing and left no record");
}

#[tokio::test]
async fn a_failing_or_panicking_loop_is_shown_keeps_its_cursor_and_stops_nobody() {
    let bench = Bench::with_mail().await;
    let ill = Scripted::new([
        Ok((vec![], "one")),
        Err(PollError::Temporary("the server is away".into())),
        Ok((vec![], "panic")),
        Ok((vec![], "two")),
    ]);
    let well = Scripted::new([]);
    bench.pollers.set(vec![handle("ill", &["d1.example"], ill.clone()), handle("well", &["*"], well.clone())]);
    assert_eq!(bench.first_poll("ill").await.last_error, None);
    bench.first_poll("well").await;
    let status = bench.next_poll("ill").await;
    assert_eq!(status.last_error.as_deref(), Some("the server is away"));
    let wait = status.next_check_at.unwrap() - bench.clock.now().wall_ms;
    assert!((54_000..=66_000).contains(&wait), "twice the interval, with jitter: {wait}");
    bench.clock.advance(INTERVAL);
    assert!(bench.next_poll("ill").await.last_error.unwrap().contains("panicked"));
    bench.clock.advance(INTERVAL * 3);
    assert_eq!(bench.next_poll("ill").await.last_error, None);
    assert_eq!(ill.cursors(), ["", "one", "one", "one"]);
    while well.cursors().len() < 3 {
        assert_eq!(bench.next_poll("well").await.last_error, None);
    }
}

/// Takes a while to answer that nothing is new.
struct Slow {
    clock: Arc<ManualClock>,
    takes: Duration,
}

impl FeedbackLoop for Slow {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn poll<'a>(&'a self, poll: Poll<'a>, _: &'a mut dyn FactSink) -> BoxFuture<'a, Result<String, PollError>> {
        Box::pin(async move {
            self.clock.advance(self.takes);
            Ok(poll.cursor.to_owned())
        })
    }
}

#[tokio::test]
async fn a_loop_was_checked_when_its_poll_began_however_long_it_took() {
    let bench = Bench::start();
    let began = bench.clock.now().wall_ms;
    let takes = Duration::from_secs(20);
    bench.pollers.set(vec![handle("slow", &["*"], Arc::new(Slow { clock: bench.clock.clone(), takes }))]);
    let status = bench.first_poll("slow").await;
    assert_eq!(status.checked_at, Some(began), "what came during the poll may not be in its answer");
    assert!(status.next_check_at.is_some_and(|next| next >= began + 20_000 + 27_000), "it waits from the end on: {status:?}");
}

#[tokio::test]
async fn reports_that_were_not_declared_or_are_about_others_mail_never_reach_the_ledger() {
    let bench = Bench::with_mail().await;
    let reports = vec![
        fact(message_id(1, 1), FactKind::Spam),
        fact(message_id(1, 2), FactKind::Read),
        fact("1.1.AAAAAAAA@acme.example".into(), FactKind::Read),
        fact(message_id(1, 1), FactKind::Read),
    ];
    let feedback = Scripted::new([Ok((reports, "one"))]);
    bench.pollers.set(vec![handle("loop", &["d1.example"], feedback.clone())]);
    assert_eq!(bench.first_poll("loop").await.refused, 1);
    assert_eq!(*feedback.watched.lock().unwrap(), [message_id(1, 1)], "another loop may watch the rest");
    let parts = bench.ledger.email(&org(), 1).await.unwrap().unwrap().parts;
    let delivered: Vec<(&str, i64, i64)> = parts.iter().map(|p| (&*p.domain, p.tally.delivered, p.tally.spam)).collect();
    assert_eq!(delivered, [("d0.example", 0, 0), ("d1.example", 1, 0), ("d2.example", 0, 0)]);
}

#[tokio::test]
async fn what_is_known_takes_up_no_room_and_makes_no_record() {
    let bench = Bench::with_mail().await;
    let first = || fact(message_id(1, 1), FactKind::Delivered);
    let many = || (0..8_000).map(|_| first()).collect::<Vec<_>>();
    // More than a record holds, from the start to the middle, and the rest back to the start.
    let feedback = Scripted::new([
        Ok((vec![first()], "start")),
        Ok((many(), "middle")),
        Ok((vec![first()], "start")),
        Ok((many(), "middle")),
        Ok((vec![first(), fact(message_id(1, 2), FactKind::Delivered)], "start")),
    ]);
    bench.pollers.set(vec![handle("loop", &["*"], feedback.clone())]);
    bench.first_poll("loop").await;
    bench.next_poll("loop").await;
    assert_eq!(feedback.cursors(), ["", "start", "middle"]);
    let state = bench.ledger.loop_state(&org(), "loop").await.unwrap();
    assert_eq!((state.sequence, state.cursor.as_str()), (1, "start"), "no record says that nothing is new");
    bench.next_poll("loop").await;
    let state = bench.ledger.loop_state(&org(), "loop").await.unwrap();
    assert_eq!((state.sequence, state.cursor.as_str()), (2, "start"), "one record has the one new fact of two answers");
    let parts = bench.ledger.email(&org(), 1).await.unwrap().unwrap().parts;
    assert_eq!(parts.iter().map(|p| p.tally.delivered).sum::<i64>(), 2);
}

#[tokio::test]
async fn replaced_loops_start_a_fresh_worker_and_unchanged_ones_go_on() {
    let bench = Bench::with_mail().await;
    let (kept, old, new) = (Scripted::new([]), Scripted::new([Ok((vec![], "one"))]), Scripted::new([]));
    bench.pollers.set(vec![handle("kept", &["*"], kept.clone()), handle("loop", &["d1.example"], old.clone())]);
    let status = bench.first_poll("kept").await;
    bench.first_poll("loop").await;
    // Another instance of the same makes no difference; another content of the plugin's file does.
    let changed = LoopHandle {
        origin: Origin { sha256: Some("another".into()), ..Origin::default() },
        ..handle("loop", &["d1.example"], new.clone())
    };
    let unused = Scripted::new([]);
    bench.pollers.set(vec![handle("kept", &["*"], unused.clone()), changed]);
    assert_eq!(bench.status("kept"), status, "nothing of an unchanged loop is reset");
    bench.first_poll("loop").await;
    assert_eq!((kept.cursors().len(), old.cursors().len(), unused.cursors().len()), (1, 1, 0));
    assert_eq!(new.cursors(), ["one"], "the cursor is the log's, not the instance's");
    bench.next_poll("kept").await;
    assert_eq!((kept.cursors().len(), unused.cursors().len()), (2, 0));
    bench.pollers.set(Vec::new());
    assert!(bench.pollers.charge().all().is_empty());
    bench.pollers.stop().await;
}

#[test]
fn waits_double_with_each_failure_up_to_ten_minutes_and_vary_by_a_tenth() {
    let secs = |failures, random| wait_after(INTERVAL, failures, random).as_secs_f64().round();
    assert_eq!([secs(0, 0.0), secs(0, 0.5), secs(0, 1.0)], [27.0, 30.0, 33.0]);
    assert_eq!([1, 2, 4, 5, 100].map(|failures| secs(failures, 0.5)), [60.0, 120.0, 480.0, 600.0, 600.0]);
    assert_eq!(wait_after(Duration::from_secs(3600), 3, 0.5), Duration::from_secs(3600));
}

/// A log that takes records of facts and gives none back, as when their topic was made anew.
struct Forgets {
    published: Mutex<usize>,
}

#[async_trait::async_trait]
impl EventLog for Forgets {
    async fn publish(&self, batches: Vec<Sealed>) -> Result<(), LogError> {
        *self.published.lock().unwrap() += batches.iter().map(|batch| batch.count).sum::<usize>();
        Ok(())
    }

    async fn consume(&self, _: &[Topic], _: &[Position]) -> Result<Box<dyn Consumer>, LogError> {
        Err(LogError::Unavailable("it only takes".into()))
    }
}

#[tokio::test]
async fn a_record_that_does_not_come_back_is_a_failure_that_shows_and_is_tried_again() {
    let bench = Bench::with_mail().await;
    let log = Arc::new(Forgets { published: Mutex::default() });
    let feedback = Scripted::new([Ok((vec![], "one")), Ok((vec![], "one"))]);
    let (ledger, clock) = (bench.ledger.clone(), bench.clock.clone());
    let pollers = Pollers::new(Shared { ledger, log: log.clone(), clock, applied: bench.projector.applied(), seed: 1 });
    pollers.set(vec![handle("loop", &["*"], feedback.clone())]);
    let status = || pollers.charge().all()[0].status();
    let shown = async |polls: usize| {
        let before = status().next_check_at;
        while *log.published.lock().unwrap() < polls {
            tokio::task::yield_now().await;
        }
        // It waits for its record, or is about to.
        while status().next_check_at == before {
            bench.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    for polls in 1..=2 {
        tokio::time::timeout(Duration::from_secs(20), shown(polls)).await.expect("the wait is bounded");
        let (error, checked_at) = (status().last_error.expect("it failed"), status().checked_at);
        assert!(error.contains("health-facts") && error.contains("300s"), "{error}");
        assert_eq!(checked_at, None);
        bench.clock.advance(INTERVAL * 5);
    }
    while feedback.cursors().len() < 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(feedback.cursors(), ["", "", ""], "from where the ledger stands");
    pollers.stop().await;
}
