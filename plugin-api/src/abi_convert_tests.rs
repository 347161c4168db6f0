//! What crosses comes back as it went, and what contradicts itself is unknown.

use super::*;

fn there_and_back(outcome: &Outcome) -> Outcome {
    // SAFETY: the struct is lent for the length of the closure.
    lend_outcome(outcome, |c| unsafe { read_outcome(c) })
}

#[test]
fn every_outcome_crosses_unchanged() {
    let reply = Reply { code: 451, enhanced: Some(EnhancedCode(4, 7, 650)), text: "later".into() };
    let mut outcomes = vec![Outcome::Accepted(Reply { code: 250, enhanced: None, text: String::new() })];
    for fault in FAULTS {
        outcomes.push(Outcome::Deferred { reply: reply.clone(), fault, retry_after: Some(Duration::from_secs(3)) });
        outcomes.push(Outcome::Rejected { reply: Reply { code: 550, ..reply.clone() }, fault });
    }
    outcomes.extend(CAUSES.map(|cause| Outcome::NotAttempted { cause, detail: "why".into() }));
    outcomes.extend(PHASES.map(|phase| Outcome::Unknown { phase, detail: "where".into() }));
    for outcome in outcomes {
        assert_eq!(there_and_back(&outcome), outcome);
    }
}

#[test]
fn an_acceptance_with_a_refusing_code_is_unknown() {
    for code in [0, 199, 354, 451, 550, 25_000] {
        let outcome = Outcome::Accepted(Reply { code, enhanced: None, text: String::new() });
        assert!(matches!(there_and_back(&outcome), Outcome::Unknown { .. }), "{code}");
    }
}

#[test]
fn a_null_outcome_is_unknown() {
    // SAFETY: null is allowed.
    assert!(matches!(unsafe { read_outcome(std::ptr::null()) }, Outcome::Unknown { .. }));
}

#[test]
fn fields_behind_the_size_of_an_older_struct_read_as_zero() {
    let outcome = Outcome::Deferred {
        reply: Reply { code: 451, enhanced: None, text: "not within the size".into() },
        fault: Fault::Account,
        retry_after: Some(Duration::from_secs(9)),
    };
    let read = lend_outcome(&outcome, |c| {
        let old = abi::Outcome { struct_size: 28, text: Slice::new(b"x"), ..*c };
        // SAFETY: the struct is larger than it says.
        unsafe { read_outcome(&old) }
    });
    let reply = Reply { code: 451, enhanced: None, text: String::new() };
    assert_eq!(read, Outcome::Deferred { reply, fault: Fault::Account, retry_after: None });
}

#[test]
fn an_instance_crosses_with_its_secrets() {
    let instance = Instance {
        organization: "acme".into(),
        name: "primary".into(),
        settings: serde_json::Map::from_iter([("port".to_owned(), 25.into())]),
        secrets: BTreeMap::from([("password".to_owned(), Secret::new("p"))]),
        connections_max: 3,
        data_dir: "/var/lib/x".into(),
    };
    // SAFETY: the struct is lent for the length of the closure.
    let back = lend_instance(&instance, |c| unsafe { read_instance(c) }).expect("it is a configuration");
    assert_eq!(format!("{back:?}"), format!("{instance:?}"));
    assert_eq!(back.secrets["password"].expose(), "p");
}

#[test]
fn every_report_crosses_unchanged() {
    let fact = |kind| Report::Message(Fact { message_id: "a@b".into(), kind, at_ms: Some(7), detail: Some("d".into()) });
    let mut reports: Vec<Report> = FACTS.map(fact).into();
    let (domain, date) = ("example.com".to_owned(), "2026-01-02".to_owned());
    reports.push(Report::Aggregate(Aggregate { domain: domain.clone(), date: date.clone(), metric: "spam_ratio".into(), value: 0.25 }));
    reports.push(Report::NoData { domain, date });
    for report in reports {
        // SAFETY: the struct is lent for the length of the closure.
        assert_eq!(lend_report(&report, |c| unsafe { read_report(c) }), Some(report));
    }
}

#[test]
fn capabilities_cross_unchanged() {
    for bits in 0..128 {
        assert_eq!(capability_bits(read_capabilities(bits)), bits);
    }
}

#[test]
fn a_long_text_is_cut_on_a_characters_edge() {
    let line = one_line(&format!("a\r\n{}", "é".repeat(400)));
    assert!(line.len() <= TEXT_OCTETS_MAX && line.starts_with("a  é"), "{line}");
}
