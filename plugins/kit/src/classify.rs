//! Whose fault a refusal is, and when to try again: rules as data, first match wins.
//!
//! The order of evidence: the text of a provider that is known, the enhanced code, the text in general, the basic code.
//! Sources disagree within one reply, and the text is the most telling.
//!
//! Invariant: pure; a refusal for reputation, policy or volume is never the recipient's fault.

use postwarm_plugin_api::{EnhancedCode, Fault, Phase, Reply};
use std::time::Duration;

/// A provider's table; first match wins. Empty: the general rules decide.
pub type Rules = &'static [Rule];

/// One line of a provider's table.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The basic code; any where absent.
    pub code: Option<u16>,
    /// Subject and detail of the enhanced code; any where absent.
    pub enhanced: Option<(u16, u16)>,
    /// What the text contains, in lower case; empty for any text.
    pub text: &'static str,
    pub fault: Fault,
    /// When to try again, in seconds.
    pub retry_after_secs: Option<u64>,
}

impl Rule {
    /// A rule about a text alone.
    pub const fn text(text: &'static str, fault: Fault) -> Rule {
        Rule { code: None, enhanced: None, text, fault, retry_after_secs: None }
    }

    /// A rule about an enhanced code alone.
    pub const fn enhanced(subject: u16, detail: u16, fault: Fault) -> Rule {
        Rule { code: None, enhanced: Some((subject, detail)), text: "", fault, retry_after_secs: None }
    }

    /// The same rule with a time to wait.
    pub const fn after_secs(self, secs: u64) -> Rule {
        Rule { retry_after_secs: Some(secs), ..self }
    }

    fn matches(&self, reply: &Reply, text: &str) -> bool {
        let enhanced = reply.enhanced.map(|EnhancedCode(_, subject, detail)| (subject, detail));
        self.code.is_none_or(|code| code == reply.code)
            && self.enhanced.is_none_or(|pair| enhanced == Some(pair))
            && (self.text.is_empty() || text.contains(self.text))
    }
}

/// Says whose fault a 4yz or 5yz reply in this phase is, and after which time a new attempt makes sense: by a provider's
/// rules, and where none matches by the general ones.
pub fn classify(rules: &[Rule], reply: &Reply, phase: Phase) -> (Fault, Option<Duration>) {
    let text = reply.text.to_ascii_lowercase();
    match rules.iter().find(|rule| rule.matches(reply, &text)) {
        Some(rule) => (rule.fault, rule.retry_after_secs.map(Duration::from_secs).or_else(|| named_wait(&text))),
        None => (general_fault(reply, &text, phase), named_wait(&text)),
    }
}

fn general_fault(reply: &Reply, text: &str, phase: Phase) -> Fault {
    // Authentication (RFC 4954), whatever else the reply says.
    if matches!(reply.code, 530 | 534 | 535 | 538) {
        return Fault::Account;
    }
    if let Some(fault) = reply.enhanced.and_then(|code| enhanced_fault(code, phase)) {
        return fault;
    }
    if let Some((_, fault)) = TEXTS.iter().find(|(needle, _)| text.contains(needle)) {
        return *fault;
    }
    match reply.enhanced {
        Some(EnhancedCode(_, 7, _)) => Fault::Domain,
        _ => basic_fault(reply.code, phase),
    }
}

/// Judges by RFC 3463 and the registry of RFC 5248; `None` where the code says too little.
fn enhanced_fault(code: EnhancedCode, phase: Phase) -> Option<Fault> {
    let EnhancedCode(_, subject, detail) = code;
    let fault = match (subject, detail) {
        (1, 7) => Fault::Account,
        (1, 8) => Fault::Domain,
        (1, 0) if phase == Phase::Mail => Fault::Account,
        (1, 0..=10) => Fault::Recipient,
        (2, 3) | (3, 4) | (6, _) => Fault::Content,
        (2, 1..=4) => Fault::Recipient,
        (3 | 4, 1..) => Fault::Network,
        // Message refused for the requirements of a recipient that changed hands (RFC 7293).
        (7, 17 | 18) => Fault::Recipient,
        (7, 3 | 8 | 9 | 11 | 13 | 14 | 57) => Fault::Account,
        (7, 20..=29) => Fault::Domain,
        _ => return None,
    };
    Some(fault)
}

/// What replies say in words; first match wins.
const TEXTS: &[(&str, Fault)] = &[
    ("relay access denied", Fault::Account),
    ("relaying denied", Fault::Account),
    ("not permitted to relay", Fault::Account),
    ("authentication required", Fault::Account),
    ("daily sending", Fault::Account),
    ("sending limit", Fault::Account),
    ("sender address rejected", Fault::Account),
    ("greylist", Fault::Network),
    ("graylist", Fault::Network),
    ("too many connections", Fault::Network),
    ("user unknown", Fault::Recipient),
    ("unknown user", Fault::Recipient),
    ("no such user", Fault::Recipient),
    ("no such recipient", Fault::Recipient),
    ("recipient not found", Fault::Recipient),
    ("does not exist", Fault::Recipient),
    ("doesn't have a", Fault::Recipient),
    ("mailbox unavailable", Fault::Recipient),
    ("mailbox not found", Fault::Recipient),
    ("mailbox is disabled", Fault::Recipient),
    ("mailbox full", Fault::Recipient),
    ("mailbox is full", Fault::Recipient),
    ("over quota", Fault::Recipient),
    ("quota exceeded", Fault::Recipient),
    ("spamhaus", Fault::Domain),
    ("blacklist", Fault::Domain),
    ("blocklist", Fault::Domain),
    ("block list", Fault::Domain),
    ("reputation", Fault::Domain),
    ("dmarc", Fault::Domain),
    ("dkim", Fault::Domain),
    ("spf", Fault::Domain),
    ("complaint", Fault::Domain),
    ("rate limit", Fault::Domain),
    ("virus", Fault::Content),
    ("spam", Fault::Content),
    ("too large", Fault::Content),
    ("too big", Fault::Content),
    ("message size", Fault::Content),
    ("try again later", Fault::Network),
];

fn basic_fault(code: u16, phase: Phase) -> Fault {
    match (code, phase) {
        (521 | 556, Phase::Rcpt) => Fault::Recipient,
        (421 | 430..=447 | 451 | 454 | 458..=499, _) => Fault::Network,
        (450 | 550 | 551 | 553, Phase::Rcpt) | (452 | 552, Phase::Rcpt) => Fault::Recipient,
        (_, Phase::Mail) if code >= 500 => Fault::Account,
        (552 | 554, Phase::Content | Phase::EndOfData) | (550, Phase::EndOfData) => Fault::Content,
        (554 | 521 | 550, _) => Fault::Domain,
        _ => Fault::Network,
    }
}

/// Reads a wait that a text names, such as "try again in 5 minutes"; at most a day.
fn named_wait(text: &str) -> Option<Duration> {
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut number: Option<u64> = None;
    let mut behind_in = false;
    for word in words.by_ref() {
        let unit = match word {
            "s" | "sec" | "secs" | "second" | "seconds" => Some(1),
            "m" | "min" | "mins" | "minute" | "minutes" => Some(60),
            "h" | "hour" | "hours" => Some(3600),
            _ => None,
        };
        if let (Some(number), Some(unit)) = (number, unit) {
            return number.checked_mul(unit).filter(|&secs| (1..=86_400).contains(&secs)).map(Duration::from_secs);
        }
        number = if behind_in { word.parse().ok() } else { None };
        behind_in = matches!(word, "in" | "after" | "least") || (behind_in && word == "at");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::ReplyParser;

    const REPLIES: &[(&str, Phase, &str)] = &[
        ("Recipient", Phase::Rcpt, "550 5.1.1 <a@y.example>: Recipient address rejected: User unknown in local recipient table"),
        ("Recipient", Phase::Rcpt, "550 No such user here"),
        ("Recipient", Phase::Rcpt, "550 no"),
        ("Account", Phase::Mail, "553 5.1.7 bad sender"),
        ("Domain", Phase::Mail, "550 5.1.8 <a@x.example>: Sender address rejected: Domain not found"),
        ("Account", Phase::Rcpt, "554 5.7.1 <a@y.example>: Relay access denied"),
        ("Network after 300 s", Phase::Rcpt, "450 4.2.0 <a@y.example>: Recipient address rejected: Greylisted, try again in 300 seconds"),
        ("Network after 300 s", Phase::Rcpt, "451 4.7.1 Greylisting in action, please come back in 5 minutes"),
        ("Recipient", Phase::Rcpt, "452 4.2.2 Mailbox full"),
        ("Network", Phase::Mail, "452 4.3.1 Insufficient system storage"),
        ("Content", Phase::Mail, "552 5.3.4 Message size exceeds fixed limit"),
        ("Domain", Phase::Rcpt, "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"),
        ("Content", Phase::EndOfData, "550 5.7.1 Message rejected as spam by Content Filtering."),
        ("Domain", Phase::EndOfData, "550 5.7.1 Rejected for policy reasons"),
        ("Domain", Phase::EndOfData, "550 5.7.26 authentication failed"),
        ("Content", Phase::EndOfData, "554 5.6.0 malformed message"),
        ("Content", Phase::EndOfData, "554 transaction failed"),
        ("Account", Phase::Authenticate, "535 5.7.8 wrong"),
        ("Network", Phase::Mail, "421 4.7.0 Too many connections from your host"),
        ("Network", Phase::Rcpt, "451 4.3.0 Temporary lookup failure"),
        ("Recipient", Phase::Rcpt, "556 5.1.10 null MX"),
    ];

    #[test]
    fn a_reply_of_any_server_blames_the_right_one() {
        for &(judgement, phase, line) in REPLIES {
            let mut parser = ReplyParser::default();
            parser.feed(format!("{line}\r\n").as_bytes()).unwrap();
            let (fault, retry_after) = classify(&[], &parser.reply(), phase);
            let wait = retry_after.map_or_else(String::new, |wait| format!(" after {} s", wait.as_secs()));
            assert_eq!(format!("{fault:?}{wait}"), judgement, "{phase:?} {line}");
        }
    }

    #[test]
    fn a_provider_rule_comes_before_the_general_ones() {
        let rules = [Rule::text("user unknown", Fault::Network).after_secs(60)];
        let reply = Reply { code: 550, enhanced: Some(EnhancedCode(5, 1, 1)), text: "User Unknown".into() };
        assert_eq!(classify(&rules, &reply, Phase::Rcpt), (Fault::Network, Some(Duration::from_secs(60))));
        assert_eq!(classify(&[], &reply, Phase::Rcpt), (Fault::Recipient, None));
    }
}
