//! Times and reasons, as tables.

use super::*;
use crate::config::settings::*;
use crate::model::name::OrgName;
use expect_test::{Expect, expect};
use std::collections::BTreeMap;

const NOW: Now = Now { wall_ms: 1_764_000_000_000, boot_ms: 5_000_000 };
const DAY: i64 = 86_400_000;

/// `free` slots now and the rest of `all` in `wait_ms`, again every `per_ms`.
fn window(per_ms: i64, free: u64, all: u64, wait_ms: i64) -> Allowance {
    let slots = [(NOW.boot_ms, free), (NOW.boot_ms + wait_ms, all - free)];
    Allowance { per_ms, slots: slots.into_iter().filter(|(_, n)| *n > 0).collect() }
}

fn lane(rows: u64, limits: Vec<Allowance>) -> LaneLoad {
    LaneLoad { rows, limits }
}

fn wait(load: &Load) -> Option<i64> {
    eta(load, NOW).map(|at| at - NOW.wall_ms)
}

#[test]
fn a_time_follows_the_rate_and_is_never_before_the_limits_allow() {
    let daily = |free| window(DAY, free, 500, DAY / 2);
    let load = |lanes: Vec<LaneLoad>, common: Vec<Allowance>, rate: Option<f64>| Load { lanes, common, rate, ..Load::default() };
    let table = [
        ("nothing is queued", load(vec![lane(0, vec![daily(1)])], vec![daily(1)], Some(9.0)), None),
        ("neither rate nor limit", load(vec![lane(9, vec![])], vec![], None), None),
        ("limits with room do not say that it goes", load(vec![lane(9, vec![daily(9)])], vec![daily(9)], None), None),
        ("a rate of nothing is none", load(vec![lane(9, vec![])], vec![], Some(0.0)), None),
        ("the rate alone", load(vec![lane(100, vec![]), lane(200, vec![])], vec![], Some(10.0)), Some(30_000)),
        ("the rate within the limits", load(vec![lane(100, vec![])], vec![daily(200)], Some(10.0)), Some(10_000)),
        ("a cap that is reached, without a rate", load(vec![lane(1, vec![])], vec![daily(0)], None), Some(DAY / 2)),
        ("a cap that is reached, whatever the rate", load(vec![lane(1_200, vec![])], vec![daily(0)], Some(1e6)), Some(DAY / 2 + 2 * DAY)),
        (
            "the provider's cap binds its own lane",
            load(vec![lane(501, vec![daily(0)]), lane(9_000, vec![])], vec![], Some(1e6)),
            Some(DAY * 3 / 2),
        ),
        ("common caps bind the sum", load(vec![lane(300, vec![]), lane(300, vec![])], vec![daily(0)], None), Some(DAY * 3 / 2)),
        ("the latest of all", load(vec![lane(1, vec![daily(0)])], vec![window(1_000, 1, 1, 0)], Some(1e-3)), Some(DAY / 2)),
        ("a limit that allows none", load(vec![lane(1, vec![])], vec![window(DAY, 0, 0, 0)], Some(9.0)), None),
        ("further than anybody can tell", load(vec![lane(u64::MAX, vec![])], vec![daily(0)], Some(9.0)), None),
    ];
    for (what, load, expected) in table {
        assert_eq!(wait(&load), expected, "{what}");
    }
}

#[test]
fn what_is_not_in_a_lane_yet_counts_and_a_held_lane_has_no_time_or_its_own() {
    let load = Load { rest: 100, rate: Some(10.0), ..Load::default() };
    assert_eq!(wait(&load), Some(10_000));
    assert_eq!(wait(&Load { held: true, ..load.clone() }), None);
    assert_eq!(wait(&Load { not_before: Some(NOW.boot_ms + 60_000), ..load.clone() }), Some(60_000));
    assert_eq!(wait(&Load { not_before: Some(NOW.boot_ms - 60_000), ..load }), Some(10_000));
}

#[test]
fn reasons_stand_once_each_and_what_ends_first_comes_first() {
    let reason = |until_boot_ms, words: &str| Reason { until_boot_ms, words: words.into() };
    assert_eq!(waits_for(Vec::new()), None);
    let some = vec![reason(Some(9), "late"), reason(Some(5), "early"), reason(Some(9), "late")];
    assert_eq!(waits_for(some).as_deref(), Some("early; late"));
    let many = vec![reason(Some(4), "d"), reason(Some(3), "c"), reason(None, "a"), reason(Some(2), "b"), reason(Some(5), "e")];
    assert_eq!(waits_for(many).as_deref(), Some("a; b; c; and 2 more"));
}

fn organization() -> Organization {
    let entry = SmtpEntry {
        name: "relay".into(),
        plugin: "fake".into(),
        settings: Default::default(),
        secrets: Default::default(),
        limits: Vec::new(),
        connections: 10,
        share: Some("account".into()),
    };
    Organization {
        name: OrgName::parse("acme").expect("a name"),
        from_domains: vec!["acme.example".into()],
        development: true,
        public_url: None,
        on_unknown: OnUnknown::Hold,
        limits: Vec::new(),
        provider_limits: BTreeMap::new(),
        dkim: Vec::new(),
        smtp: vec![entry],
        feedback: Vec::new(),
        backfill: BackfillSettings {
            per_recipient: Window { messages: 1, per: Duration::from_secs(10) },
            hold_max: Duration::from_secs(3600),
        },
        retry: Retry { schedule: Vec::new(), give_up_after: Duration::from_secs(3600), jitter: 0.0 },
    }
}

/// What an email says whose lanes are gmail and yahoo, ten queued in each, where these scopes have counted so many.
fn says(configured: &[(&str, u64, u64)], counted: &[(&str, u64)]) -> Option<String> {
    let mut limits = Limits::new("boot");
    for (scope, messages, secs) in configured {
        limits.configure(scope, &[Window { messages: *messages, per: Duration::from_secs(*secs) }], NOW);
    }
    for (scope, n) in counted {
        limits.take(&[scope], *n);
        limits.settle(&[scope], *n, NOW.boot_ms);
    }
    let lane = |provider: &str| WaitingLane { provider: provider.into(), queued: 10, deferred: 0, ahead: 10 };
    let (organization, lanes) = (organization(), [lane("gmail"), lane("yahoo")]);
    let question = Question { org: OrgId(1), organization: &organization, email: EmailNumber(1), queued: 20, lanes: &lanes };
    now(&question, &View::default(), &Shared::new(limits), NOW).waits_for
}

fn check(configured: &[(&str, u64, u64)], counted: &[(&str, u64)], expected: Expect) {
    expected.assert_eq(says(configured, counted).as_deref().unwrap_or("nothing"));
}

#[test]
fn every_kind_of_limit_is_named_with_its_window_and_its_time() {
    let day = 86_400;
    check(&[("client/acme/relay", 500, day)], &[("client/acme/relay", 499)], expect!["nothing"]);
    check(
        &[("client/acme/relay", 500, day)],
        &[("client/acme/relay", 500)],
        expect!["client `relay`, daily cap 500 reached, next at 2025-11-25T16:06:40Z"],
    );
    check(
        &[("org/acme", 9, 3_600)],
        &[("org/acme", 9)],
        expect!["organization `acme`, hourly cap 9 reached, next at 2025-11-24T17:00:07Z"],
    );
    check(
        &[("provider/acme/gmail", 9, 60)],
        &[("provider/acme/gmail", 9)],
        expect!["provider `gmail`, per-minute cap 9 reached, next at 2025-11-24T16:01:01Z"],
    );
    check(
        &[("share/account", 9, 90)],
        &[("share/account", 9)],
        expect!["share `account`, per-1m30s cap 9 reached, next at 2025-11-24T16:01:31Z"],
    );
    check(&[("share/account", 0, day)], &[], expect!["share `account`, daily cap 0 reached"]);
}

#[test]
fn the_limit_that_frees_last_is_named_and_lanes_that_wait_for_others_follow() {
    check(
        &[("org/acme", 9, 60), ("client/acme/relay", 5, 86_400)],
        &[("org/acme", 9), ("client/acme/relay", 5)],
        expect!["client `relay`, daily cap 5 reached, next at 2025-11-25T16:06:40Z"],
    );
    check(
        &[("provider/acme/yahoo", 9, 60), ("provider/acme/gmail", 5, 86_400)],
        &[("provider/acme/yahoo", 9), ("provider/acme/gmail", 5)],
        expect![
            "provider `yahoo`, per-minute cap 9 reached, next at 2025-11-24T16:01:01Z; provider `gmail`, daily cap 5 reached, next at 2025-11-25T16:06:40Z"
        ],
    );
}

#[test]
fn what_is_out_says_that_it_waits_for_a_reply() {
    let mut limits = Limits::new("boot");
    limits.configure("org/acme", &[Window { messages: 2, per: Duration::from_secs(60) }], NOW);
    limits.take(&["org/acme"], 2);
    let scopes = Scopes::of(&organization(), "relay", "gmail");
    let reason = reason(None, &scopes, &mut limits, NOW).expect("it waits");
    assert_eq!(reason.words, "organization `acme`, per-minute cap 2 reached, next when a reply has come");
}
