//! New settings while messages are in flight.

use super::fixture::*;
use crate::config::settings::{Settings, Window};
use crate::model::name::OrgName;
use std::sync::Arc;
use std::time::Duration;

const PER_SECOND: Duration = Duration::from_secs(1);

fn share(settings: &Arc<Settings>, messages: u64) -> Arc<Settings> {
    edit(settings, |process, organization| {
        process.shares.insert("relay".into(), vec![Window { messages, per: Duration::from_secs(60) }]);
        organization.smtp[0].share = Some("relay".into());
    })
}

#[tokio::test]
async fn rows_of_a_client_that_was_removed_free_the_share_that_they_took() {
    let shared = share(&settings(1, |_| {}), 4);
    let world = World::new(shared.clone());
    let email = world.broadcast("acme", 8, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 4);
    world.settings.send_replace(edit(&shared, |_, o| o.smtp[0].name = "another".into()));
    engine.take_settings().await.unwrap();
    assert_eq!(world.script.release(accepted), 4);
    engine.answers(4).await;
    world.clock.advance(Duration::from_secs(62));
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 4, "a minute later the share has its four slots again");
}

#[tokio::test]
async fn rows_of_an_organization_that_went_away_free_its_limits_and_count() {
    let limited = settings(1, |o| o.limits = vec![Window { messages: 4, per: Duration::from_secs(60) }]);
    let world = World::new(limited.clone());
    let email = world.broadcast("acme", 8, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.settings.send_modify(|s| Arc::make_mut(s).organizations.clear());
    engine.take_settings().await.unwrap();
    world.script.release(accepted);
    engine.answers(4).await;
    world.settings.send_replace(limited);
    engine.take_settings().await.unwrap();
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 0, "what was sent meanwhile counts");
    world.clock.advance(Duration::from_secs(62));
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 4);
}

#[tokio::test]
async fn a_share_that_is_added_with_rows_out_does_not_lend_the_slots_of_others() {
    let alone = settings(1, |_| {});
    let both = share(&edit(&alone, |_, o| o.name = OrgName::parse("other").unwrap()), 4);
    let (acme, other) = (OrgName::parse("acme").unwrap(), OrgName::parse("other").unwrap());
    // `share` changed acme; here other is in the share from the start, and acme joins later.
    let mut later = (*both).clone();
    later.organizations.insert(
        other.clone(),
        Arc::new({
            let mut o = (*both.organizations[&acme]).clone();
            o.name = other.clone();
            o
        }),
    );
    let mut first = later.clone();
    first.organizations.insert(acme.clone(), alone.organizations[&acme].clone());
    let world = World::new(Arc::new(first));
    let email = world.broadcast("acme", 4, "mail.example").await;
    let others = world.broadcast("other", 9, "mail.other").await;
    let mut engine = world.engine().await;
    engine.once().await;
    assert_eq!((world.counts("acme", email).await.sending, world.counts("other", others).await.sending), (4, 4));
    world.settings.send_replace(Arc::new(later));
    engine.take_settings().await.unwrap();
    // Acme's four come back; other's four are still out and keep the share full.
    let waiting = world.script.release_of("@mail.example", accepted);
    engine.answers(waiting).await;
    engine.once().await;
    assert_eq!(world.counts("other", others).await.sending, 4);
}

#[tokio::test]
async fn a_client_that_was_changed_is_not_taken_for_the_one_before_it() {
    let before = settings(1, |_| {});
    let world = World::new(before.clone());
    let email = world.broadcast("acme", 40, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    let out = world.counts("acme", email).await.sending as usize;
    world.settings.send_replace(edit(&before, |_, o| o.smtp[0].limits = vec![Window { messages: 1_000, per: PER_SECOND * 60 }]));
    engine.take_settings().await.unwrap();
    world.script.release(failing);
    engine.answers(out).await;
    assert!(engine.plan().iter().all(|lane| lane.claim.rows_max > 1), "the new one has not failed");
}

const DAY: Duration = Duration::from_secs(86_400);

/// Every kind of scope that has a cap of four a day, by what sets it.
fn capped_by(kind: &str) -> Arc<Settings> {
    let day = vec![Window { messages: 4, per: DAY }];
    edit(&settings(1, |_| {}), |process, organization| {
        process.shares.insert("relay".into(), vec![Window { messages: if kind == "share" { 4 } else { 1_000 }, per: DAY }]);
        organization.smtp[0].share = Some("relay".into());
        match kind {
            "organization" => organization.limits = day,
            "provider" => drop(organization.provider_limits.insert("mail".into(), day)),
            "client" => organization.smtp[0].limits = day,
            _ => {}
        }
    })
}

/// The same while the file of acme is broken: another organization uses the account.
fn broken(settings: &Arc<Settings>) -> Arc<Settings> {
    let name = OrgName::parse("other").unwrap();
    let mut with_other = (**settings).clone();
    let mut organization = (**with_other.organizations.values().next().unwrap()).clone();
    (organization.limits, organization.smtp[0].limits) = (Vec::new(), Vec::new());
    organization.provider_limits.clear();
    organization.name = name.clone();
    with_other.organizations = [(name, Arc::new(organization))].into();
    Arc::new(with_other)
}

#[tokio::test]
async fn an_organization_that_is_broken_at_the_start_has_used_what_it_had_in_hand_and_what_was_counted() {
    for kind in ["organization", "provider", "client", "share"] {
        for sent in [3, 0] {
            let whole = capped_by(kind);
            let world = World::new(whole.clone());
            let email = world.broadcast("acme", 12, "mail.example").await;
            let others = world.broadcast("other", 9, "mail.other").await;
            let mut engine = world.engine().await;
            world.script.answers((0..sent).map(|_| accepted()));
            engine.once().await;
            engine.answers(sent).await;
            engine.turn(Vec::new()).await;
            assert_eq!(world.counts("acme", email).await.sending, 4 - sent as i64, "{kind}");
            drop(engine);
            world.settings.send_replace(broken(&whole));
            // It starts twice: what the first start counted is stored.
            drop(world.engine().await);
            let mut engine = world.engine().await;
            assert_eq!(world.counts("acme", email).await.unknown, 4 - sent as i64, "{kind}");
            engine.once().await;
            let others = world.counts("other", others).await.sending;
            assert_eq!(others, if kind == "share" { 0 } else { 9 }, "{kind}: the account has sent four already");
            world.settings.send_replace(whole);
            engine.take_settings().await.unwrap();
            engine.once().await;
            assert_eq!(world.counts("acme", email).await.sending, 0, "{kind}: four of four went out, {sent} with a reply");
            world.clock.advance(DAY + Duration::from_secs(1_400));
            engine.once().await;
            assert_eq!(world.counts("acme", email).await.sending, 4, "{kind}: a day later");
        }
    }
}

#[tokio::test]
async fn a_limit_that_is_taken_out_and_put_back_has_counted_all_the_while() {
    for kind in ["organization", "provider", "client"] {
        let limited = capped_by(kind);
        let world = World::new(limited.clone());
        let email = world.broadcast("acme", 7, "mail.example").await;
        let mut engine = world.engine().await;
        engine.once().await;
        world.script.release(accepted);
        engine.answers(4).await;
        let bare = edit(&limited, |_, o| {
            o.limits.clear();
            o.provider_limits.clear();
            o.smtp[0].limits = vec![Window { messages: 1_000, per: PER_SECOND * 60 }];
        });
        world.settings.send_replace(bare.clone());
        engine.take_settings().await.unwrap();
        engine.once().await;
        assert_eq!(world.counts("acme", email).await.sending, 3, "{kind}: nothing limits it");
        world.script.release(accepted);
        engine.answers(3).await;
        // Through a start as well, and one without the limit.
        engine.turn(Vec::new()).await;
        drop(engine);
        let mut engine = world.engine().await;
        world.settings.send_replace(limited);
        engine.take_settings().await.unwrap();
        let email = world.broadcast("acme", 7, "mail.example").await;
        engine.once().await;
        assert_eq!(world.counts("acme", email).await.sending, 0, "{kind}: seven of four were sent today");
    }
}

#[tokio::test]
async fn slots_that_were_taken_for_rows_that_were_not_there_are_free_after_a_stop() {
    let limited = capped_by("client");
    let world = World::new(limited);
    let email = world.broadcast("acme", 1, "mail.example").await;
    let mut engine = world.engine().await;
    engine.once().await;
    world.script.release(accepted);
    engine.answers(1).await;
    // The turn that records the outcome plans three slots more, and finds nothing.
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sent, 1);
    drop(engine);
    let mut engine = world.engine().await;
    let email = world.broadcast("acme", 8, "mail.example").await;
    engine.once().await;
    assert_eq!(world.counts("acme", email).await.sending, 3);
}
