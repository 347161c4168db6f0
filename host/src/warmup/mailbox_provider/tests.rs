use super::*;
use crate::config::settings::{MailboxProvider, Window};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, MX};
use hickory_proto::rr::{Name, RData, Record};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::UdpSocket;

fn providers() -> Arc<Providers> {
    let provider = |domains: &[&str], suffixes: &[&str]| MailboxProvider {
        domains: domains.iter().map(|d| d.to_string()).collect(),
        mx_suffixes: suffixes.iter().map(|s| s.to_string()).collect(),
        limits: Vec::new(),
    };
    let mut providers = Providers::default();
    providers.mailbox.insert("blue".to_owned(), provider(&["blue.example", "*.blue.example"], &["mx.blue.example"]));
    providers.mailbox.insert("green".to_owned(), provider(&["green.example"], &["green.example", "special.mx.blue.example"]));
    Arc::new(providers)
}

/// A nameserver on loopback that knows the domains of these tests and counts its questions.
async fn nameserver() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let (address, asked) = (socket.local_addr().expect("bound"), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
            count.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = answer(question) {
                let _ = socket.send_to(&answer.to_vec().expect("encodes"), from).await;
            }
        }
    });
    (address, asked)
}

fn mx(owner: &str, preference: u16, host: &str) -> Record {
    let exchange = Name::from_str(host).expect("a name");
    Record::from_rdata(Name::from_str(owner).expect("a name"), 600, RData::MX(MX::new(preference, exchange)))
}

fn answer(question: Message) -> Option<Message> {
    let domain = question.queries.first()?.name().to_ascii().to_lowercase();
    let mut answer = question.into_response();
    match domain.as_str() {
        "company.example." => {
            answer.add_answers([mx(&domain, 20, "b.green.example."), mx(&domain, 10, "A.MX.Blue.Example.")]);
        }
        "boundary.example." => drop(answer.add_answer(mx(&domain, 10, "notmx.blue.example."))),
        "null.example." => drop(answer.add_answer(mx(&domain, 0, "."))),
        "many.example." => {
            answer.add_answers(
                (1..=20_u16).rev().map(|n| mx(&domain, n, &format!("host-{n}.{}.example.", if n == 1 { "green" } else { "x" }))),
            );
        }
        "alias.example." => {
            let target = Name::from_str("company.example.").expect("a name");
            answer.add_answer(Record::from_rdata(Name::from_str(&domain).expect("a name"), 600, RData::CNAME(CNAME(target))));
            answer.add_answer(mx("company.example.", 10, "a.mx.blue.example."));
        }
        "broken.example." => answer.metadata.response_code = ResponseCode::ServFail,
        "silent.example." => return None,
        _ => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    Some(answer)
}

async fn directory() -> (Directory, Arc<AtomicUsize>) {
    let (address, asked) = nameserver().await;
    let settings = Dns { nameserver: Some(address), timeout: Duration::from_millis(600), enabled: true };
    let lookup = DnsLookup::new(&settings).expect("built");
    (Directory::new(providers(), Some(Arc::new(lookup))), asked)
}

#[tokio::test]
async fn a_listed_domain_needs_no_dns() {
    let directory = Directory::new(providers(), None);
    for (domain, name) in [("Blue.Example", "blue"), ("x.blue.example", "blue"), ("x.green.example", OTHER), ("notblue.example", OTHER)] {
        assert_eq!(directory.find(domain, 0).await.name(), name, "{domain}");
    }
}

#[tokio::test]
async fn the_exchanger_of_the_lowest_preference_decides_on_a_label_boundary() {
    let (directory, _) = directory().await;
    let cases = [
        ("company.example", "blue"),
        ("alias.example", "blue"),
        ("many.example", "green"),
        ("boundary.example", OTHER),
        ("null.example", OTHER),
        ("missing.example", OTHER),
    ];
    for (domain, name) in cases {
        assert_eq!(directory.find(domain, 0).await, Found::Provider(name.into()), "{domain}");
    }
}

#[tokio::test]
async fn dns_that_fails_or_is_silent_leaves_a_domain_undecided() {
    let (directory, _) = directory().await;
    for domain in ["broken.example", "silent.example"] {
        let found = directory.find(domain, 0).await;
        assert_eq!((found.name(), &found), (OTHER, &Found::Undecided), "{domain}");
    }
}

#[tokio::test]
async fn an_answer_is_kept_for_its_time_within_bounds() {
    let (directory, asked) = directory().await;
    for now in [0, 1, 599_999] {
        assert_eq!(directory.find("company.example", now).await.name(), "blue");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    directory.find("company.example", 600_000).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn settings_are_the_same_as_long_as_every_answer_would_be() {
    let dns = Dns { nameserver: None, timeout: Duration::from_secs(2), enabled: true };
    let before = fingerprint(&providers(), &dns);
    let changed = |change: fn(&mut Providers)| {
        let mut providers = Providers::clone(&providers());
        change(&mut providers);
        fingerprint(&providers, &dns)
    };
    assert_eq!(
        changed(|p| p.mailbox.values_mut().for_each(|p| p.limits.push(Window { messages: 1, per: Duration::from_secs(1) }))),
        before
    );
    assert_ne!(changed(|p| p.mailbox.values_mut().for_each(|p| p.domains.push("new.example".to_owned()))), before);
    assert_ne!(changed(|p| p.mailbox.values_mut().for_each(|p| p.mx_suffixes.clear())), before);
    assert_ne!(changed(|p| drop(p.mailbox.remove("green"))), before);
    assert_ne!(fingerprint(&providers(), &Dns { enabled: false, ..dns.clone() }), before);
}

#[test]
fn the_longest_suffix_wins() {
    let hosts = [(5, "a.special.mx.blue.example".to_owned())];
    assert_eq!(by_exchangers(&providers(), &hosts), Some("green"));
}

/// Fails, and counts.
struct Failing(AtomicUsize);

#[async_trait::async_trait]
impl MxLookup for Failing {
    async fn exchangers(&self, _: &str) -> Result<Exchangers, MxError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(MxError("down".to_owned()))
    }
}

#[tokio::test]
async fn after_repeated_failures_nobody_asks_for_a_while() {
    let failing = Arc::new(Failing(AtomicUsize::new(0)));
    let directory = Directory::new(providers(), Some(failing.clone()));
    let mut asked = Vec::new();
    for now in [0, 0, 0, 0, 4_999, 5_000, 14_999, 15_000, 15_001] {
        directory.find("x.example", now).await;
        asked.push(failing.0.load(Ordering::SeqCst));
    }
    assert_eq!(asked, [1, 2, 3, 3, 3, 4, 4, 5, 5]);
}
