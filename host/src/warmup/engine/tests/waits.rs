//! What waits, for how long, and what the engine says of it.

use super::fixture::*;
use crate::clock::{Clock, Now};
use crate::config::settings::{Organization, Window};
use crate::model::delivery::Counts;
use crate::model::name::OrgName;
use crate::warmup::engine::dispatch::{MakeSigner, Sign};
use crate::warmup::store::Queue;
use postwarm_plugin_api::{Cause, Fault, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[tokio::test]
async fn an_email_that_cannot_be_read_for_now_waits_and_nobody_loses_it() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 3, "mail.example").await;
    let mut engine = world.engine().await;
    world.queue.content_fails.store(true, Ordering::SeqCst);
    engine.once().await;
    engine.answers(3).await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 3, ..Counts::default() });
    let words = world.waits_for("acme").await.unwrap();
    assert!(words.starts_with("an email cannot be read: "), "{words}");
    assert!(words.contains(", tried again at 2025-11-24T16:00:05Z"), "{words}");
    world.queue.content_fails.store(false, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(5));
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 3);
    assert_eq!(world.waits_for("acme").await, None);
}

/// Cannot sign, by panic or with words, until it can.
struct Keyless {
    works: Arc<AtomicBool>,
    panics: bool,
}

impl MakeSigner for Keyless {
    fn make(&self, _: &Organization) -> Arc<dyn Sign> {
        Arc::new(Keyless { works: self.works.clone(), panics: self.panics })
    }
}

impl Sign for Keyless {
    fn sign(&self, _: &str, _: &[u8], _: crate::warmup::engine::BodyHash<'_>, _: i64) -> Result<Option<Vec<u8>>, String> {
        match self.works.load(Ordering::SeqCst) {
            true => Ok(None),
            false if self.panics => panic!("the test says so"),
            false => Err("the key is broken".into()),
        }
    }

    fn is_slow(&self) -> bool {
        false
    }
}

async fn nobody_loses_what_cannot_be_signed(panics: bool, words: &str) {
    let works = Arc::new(AtomicBool::new(false));
    let mut world = World::new(settings(1, |_| {}));
    world.signers = Arc::new(Keyless { works: works.clone(), panics });
    let email = world.broadcast("acme", 3, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    engine.answers(3).await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await, Counts { queued: 3, ..Counts::default() });
    assert!(world.waits_for("acme").await.unwrap().starts_with(words), "{:?}", world.waits_for("acme").await);
    works.store(true, Ordering::SeqCst);
    engine.take_settings().await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 3);
}

#[tokio::test]
async fn mail_that_cannot_be_signed_waits_and_says_so() {
    nobody_loses_what_cannot_be_signed(false, "the key is broken, tried again at ").await;
}

#[tokio::test]
async fn mail_whose_task_panics_before_the_client_has_it_waits_and_says_so() {
    nobody_loses_what_cannot_be_signed(true, "the task that sent it ended without an answer, tried again at ").await;
}

#[tokio::test]
async fn a_refusal_that_blames_the_account_pauses_the_client_at_every_provider_and_one_of_the_domain_at_this_one() {
    for (fault, sending) in [(Fault::Account, 0), (Fault::Domain, 1)] {
        let world = World::new(settings(1, |o| o.retry.schedule = vec![Duration::from_secs(3_000)]));
        let first = world.broadcast("acme", 1, "one.example").await;
        let mut engine = world.engine().await;
        world.script.answers([Outcome::Deferred { reply: reply(454), fault, retry_after: None }]);
        engine.once().await;
        engine.answers(1).await;
        engine.once().await;
        assert_eq!(world.counts("acme", first).await.deferred, 1);
        world.register("acme", 1, "two.example").await;
        let email = world.send("acme").await;
        world.feed().await;
        engine.once().await;
        assert_eq!(world.counts("acme", email).await.sending, sending, "{fault:?}");
    }
}

#[tokio::test]
async fn a_client_that_always_says_it_is_stopping_is_not_asked_without_a_pause() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 3, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.script.release(|| Outcome::NotAttempted { cause: Cause::Stopping, detail: String::new() });
    engine.answers(3).await;
    engine.once().await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 0);
    world.clock.advance(Duration::from_millis(500));
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 3);
}

#[tokio::test]
async fn a_provider_that_nobody_limits_any_more_is_free_at_once() {
    let day = crate::config::settings::Window { messages: 2, per: Duration::from_secs(86_400) };
    let limited = settings(1, |o| drop(o.provider_limits.insert("mail".into(), vec![day])));
    let world = World::new(limited.clone());
    let email = world.broadcast("acme", 5, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 2);
    world.settings.send_replace(edit(&limited, |_, o| o.provider_limits.clear()));
    engine.take_settings().await.unwrap();
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 5);
    world.settings.send_replace(limited);
    engine.take_settings().await.unwrap();
    world.broadcast("acme", 6, "mail.example").await;
    engine.once().await;
    let sending = world.counts("acme", crate::model::name::EmailNumber(2)).await.sending;
    assert_eq!(sending, 0, "what it counted meanwhile is kept");
}

#[tokio::test]
async fn settings_that_cannot_be_stored_are_taken_up_whole_later() {
    let before = settings(1, |_| {});
    let world = World::new(before.clone());
    let email = world.broadcast("acme", 3, "mail.example").await;
    let mut engine = world.engine().await;
    world.queue.organizations_fail.store(true, Ordering::SeqCst);
    world.settings.send_replace(edit(&before, |_, o| o.name = OrgName::parse("other").unwrap()));
    assert!(engine.take_settings().await.is_err());
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 3, "the organizations that ran go on");
}

#[tokio::test]
async fn a_lane_that_waits_for_its_limit_goes_on_in_time_though_looking_through_the_lanes_rests() {
    let world = World::new(settings(1, |o| o.limits = vec![Window { messages: 1, per: Duration::from_secs(1) }]));
    world.broadcast("acme", 3, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    engine.answers(world.script.release(accepted)).await;
    engine.once().await;
    world.clock.advance(Duration::from_millis(900));
    // A look that took so long that the next may come after the slot.
    let now = world.clock.now();
    let asked = Now { boot_ms: now.boot_ms - 100, ..now };
    engine.lanes.replace(world.queue.lanes(now.wall_ms).await.unwrap(), asked, now);
    assert!(engine.plan().is_empty());
    let wakes_at = engine.lanes.next_at().unwrap();
    assert!((now.boot_ms + 1..now.boot_ms + 200).contains(&wakes_at), "after {} ms", wakes_at - now.boot_ms);
    world.clock.advance(Duration::from_millis((wakes_at - now.boot_ms) as u64));
    assert!(!engine.lanes.is_stale(wakes_at));
    assert_eq!(engine.plan().len(), 1);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_forward_gives_nothing_up() {
    let world = World::new(settings(1, |_| {}));
    let email = world.broadcast("acme", 1, "mail.example").await;
    let mut engine = world.engine().await;
    for _ in 0..3 {
        engine.once().await;
        world.clock.jump_wall(100 * 3_600_000);
        world.clock.advance(Duration::from_secs(600));
        let refused = world.script.release(|| Outcome::Deferred { reply: reply(451), fault: Fault::Recipient, retry_after: None });
        engine.answers(refused).await;
        engine.once().await;
        assert_eq!(world.counts("acme", email).await, Counts { deferred: 1, ..Counts::default() });
        world.clock.advance(Duration::from_secs(1));
    }
}
