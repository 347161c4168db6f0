//! How the sandbox's mailboxes behave: pure, seeded decisions.
//!
//! Invariant: the same seed, rates, recipient and Message-ID give the same verdict on every machine and in every run;
//! there is no clock, no randomness and no I/O here.

use serde::{Deserialize, Serialize};

/// Whose mailbox it is, which decides how it words a refusal; or whose loop one plays, which decides what it can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    Gmail,
    Yahoo,
    Outlook,
    Apple,
    /// Every other domain: it tells everything.
    Open,
}

impl Provider {
    /// Finds the provider of a recipient domain; case does not matter.
    pub fn of_domain(domain: &str) -> Provider {
        let domain = domain.to_ascii_lowercase();
        let (first, rest) = domain.split_once('.').unwrap_or((&domain, ""));
        match first {
            "gmail" | "googlemail" if rest == "com" => Provider::Gmail,
            "yahoo" | "ymail" | "rocketmail" | "aol" if is_country_form(rest) => Provider::Yahoo,
            "outlook" | "hotmail" | "live" | "msn" if is_country_form(rest) => Provider::Outlook,
            "icloud" | "me" | "mac" if rest == "com" => Provider::Apple,
            _ => Provider::Open,
        }
    }
}

/// Tells whether the rest of a domain behind the provider's label is `com`, `de`, `co.uk`, `com.br` or alike.
fn is_country_form(rest: &str) -> bool {
    let last = rest.strip_prefix("co.").or_else(|| rest.strip_prefix("com.")).unwrap_or(rest);
    last == "com" || (last.len() == 2 && last.bytes().all(|b| b.is_ascii_lowercase()))
}

/// A share of mailboxes or messages, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share(u32);

impl Share {
    /// Makes a share from a percentage of 0 to 100; `None` outside of that.
    pub fn from_percent(percent: f64) -> Option<Share> {
        (0.0..=100.0).contains(&percent).then(|| Share((percent * 10_000.0).round() as u32))
    }

    const fn percent(percent: u32) -> Share {
        Share(percent * 10_000)
    }

    fn takes(self, draw: u32) -> bool {
        draw < self.0
    }
}

/// How often mailboxes do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rates {
    /// Of the mailboxes: they refuse all mail at RCPT.
    pub reject: Share,
    /// Of the accepted messages: they come back later.
    pub bounce: Share,
    /// Of the delivered messages.
    pub spam: Share,
    /// Of the delivered messages: images fetched. Where it is lower than `read`, the opened ones are read too.
    pub open: Share,
    /// Of the delivered messages.
    pub read: Share,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates {
            reject: Share::percent(2),
            bounce: Share::percent(1),
            spam: Share::percent(2),
            open: Share::percent(25),
            read: Share::percent(40),
        }
    }
}

/// What a mailbox does with one message that it was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub delivered: bool,
    pub spam: bool,
    pub opened: bool,
    pub read: bool,
    pub bounced: bool,
    pub rejected: bool,
}

/// Decides what a mailbox does with a message: exactly one of `delivered`, `bounced` and `rejected` holds, and `spam`,
/// `opened` and `read` are parts of `delivered`.
pub fn verdict(seed: u64, rates: &Rates, recipient: &str, message_id: &str) -> Verdict {
    let nothing = Verdict { delivered: false, spam: false, opened: false, read: false, bounced: false, rejected: false };
    let recipient = recipient.to_lowercase();
    if rates.reject.takes(draw(seed, Salt::Reject, &recipient, "")) {
        return Verdict { rejected: true, ..nothing };
    }
    if rates.bounce.takes(draw(seed, Salt::Bounce, &recipient, message_id)) {
        return Verdict { bounced: true, ..nothing };
    }
    let attention = draw(seed, Salt::Attention, &recipient, message_id);
    Verdict {
        delivered: true,
        spam: rates.spam.takes(draw(seed, Salt::Spam, &recipient, message_id)),
        opened: rates.open.takes(attention),
        read: rates.read.takes(attention),
        ..nothing
    }
}

/// Returns the reply with which a mailbox refuses all mail, where it does; whole lines with their line ends.
pub fn refusal(seed: u64, provider: Provider, rates: &Rates, recipient: &str) -> Option<&'static str> {
    let recipient = recipient.to_lowercase();
    if !rates.reject.takes(draw(seed, Salt::Reject, &recipient, "")) {
        return None;
    }
    let replies = refusals(provider);
    Some(replies[draw(seed, Salt::Reply, &recipient, "") as usize % replies.len()])
}

/// Refusals of mailboxes as the providers word them: unknown, disabled, never again.
fn refusals(provider: Provider) -> &'static [&'static str] {
    match provider {
        Provider::Gmail => &[
            "550-5.1.1 The email account that you tried to reach does not exist. Please try\r\n\
             550-5.1.1 double-checking the recipient's email address for typos or\r\n\
             550-5.1.1 unnecessary spaces. For more information, go to\r\n\
             550 5.1.1  https://support.google.com/mail/?p=NoSuchUser 5b1f17b1804b1-sandbox - gsmtp\r\n",
            "550-5.2.1 The email account that you tried to reach is inactive. For more\r\n\
             550-5.2.1 information, go to\r\n\
             550 5.2.1  https://support.google.com/mail/?p=DisabledUser 5b1f17b1804b1-sandbox - gsmtp\r\n",
        ],
        Provider::Yahoo => &[
            "554 delivery error: dd This user doesn't have a yahoo.com account [-5] - mta4001.sandbox\r\n",
            "554 30 Sorry, your message cannot be delivered. This mailbox is disabled (554.30).\r\n",
        ],
        Provider::Outlook => &[
            "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302).\r\n",
            "550 5.4.1 Recipient address rejected: Access denied. [sandbox.prod.protection.outlook.com]\r\n",
        ],
        Provider::Apple => &["550 5.1.1 <>: user does not exist\r\n", "550 5.1.6 recipient no longer on server\r\n"],
        Provider::Open => &["550 5.1.1 User unknown\r\n", "550 5.2.1 Mailbox disabled, not accepting messages\r\n"],
    }
}

#[derive(Clone, Copy)]
enum Salt {
    Reject = 1,
    Reply,
    Bounce,
    Spam,
    Attention,
}

/// Draws a number below a million from the seed and the texts: FNV-1a, finished by the mixer of splitmix64.
fn draw(seed: u64, salt: Salt, recipient: &str, message_id: &str) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ mix(seed.wrapping_add((salt as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    for byte in recipient.bytes().chain([0]).chain(message_id.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (mix(hash) % 1_000_000) as u32
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(rates: &Rates, pick: impl Fn(&Verdict) -> bool) -> usize {
        (0..100_000).filter(|n| pick(&verdict(7, rates, &format!("user{n}@example.com"), &format!("m{n}@x")))).count()
    }

    #[test]
    fn the_shares_are_kept_over_many_messages() {
        let rates = Rates::default();
        let near = |got: usize, want: usize| assert!(got.abs_diff(want) < want / 10 + 50, "{got} is not about {want}");
        near(count(&rates, |v| v.rejected), 2_000);
        near(count(&rates, |v| v.bounced), 980);
        near(count(&rates, |v| v.spam), 1_940);
        near(count(&rates, |v| v.opened), 24_250);
        near(count(&rates, |v| v.read), 38_800);
    }

    #[test]
    fn every_message_is_exactly_one_of_delivered_bounced_and_rejected() {
        let share = Share::from_percent(30.0).expect("30 is a percentage");
        let rates = Rates { reject: share, bounce: share, spam: share, open: share, read: share };
        assert_eq!(count(&rates, |v| usize::from(v.delivered) + usize::from(v.bounced) + usize::from(v.rejected) == 1), 100_000);
        assert_eq!(count(&rates, |v| !v.delivered && (v.spam || v.opened || v.read)), 0);
    }

    #[test]
    fn a_verdict_is_the_same_in_every_run_whatever_the_case_of_the_address() {
        let rates = Rates::default();
        assert_eq!(draw(1, Salt::Spam, "alice@example.com", "m1@x"), 991_361);
        assert_eq!(verdict(1, &rates, "Alice@Example.COM", "m1@x"), verdict(1, &rates, "alice@example.com", "m1@x"));
    }

    #[test]
    fn a_mailbox_that_rejects_does_so_for_every_message_and_with_a_permanent_reply() {
        let rates = Rates { reject: Share::percent(50), ..Rates::default() };
        for n in 0..500 {
            let recipient = format!("u{n}@gmail.com");
            let rejects = refusal(3, Provider::Gmail, &rates, &recipient);
            assert_eq!(rejects.is_some(), verdict(3, &rates, &recipient, "a@x").rejected);
            assert_eq!(rejects.is_some(), verdict(3, &rates, &recipient, "b@x").rejected);
            assert!(rejects.is_none_or(|reply| reply.starts_with("55") && reply.ends_with("\r\n")));
        }
    }

    #[test]
    fn the_addresses_of_the_first_steps_are_delivered_with_the_default_settings() {
        for name in ["alice", "bob", "carol"] {
            let recipient = format!("{name}@example.com");
            assert_eq!(refusal(1, Provider::Open, &Rates::default(), &recipient), None, "{recipient}");
        }
    }

    #[test]
    fn the_domain_decides_the_provider() {
        let rows = [
            ("gmail.com", Provider::Gmail),
            ("GoogleMail.com", Provider::Gmail),
            ("gmail.com.evil.test", Provider::Open),
            ("yahoo.co.uk", Provider::Yahoo),
            ("yahoo.com.br", Provider::Yahoo),
            ("aol.com", Provider::Yahoo),
            ("hotmail.fr", Provider::Outlook),
            ("msn.com", Provider::Outlook),
            ("me.com", Provider::Apple),
            ("me.example.com", Provider::Open),
            ("live.example", Provider::Open),
            ("localhost", Provider::Open),
        ];
        for (domain, provider) in rows {
            assert_eq!(Provider::of_domain(domain), provider, "{domain}");
        }
    }
}
