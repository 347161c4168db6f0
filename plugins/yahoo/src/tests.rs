//! Real replies and what they are taken for.

use super::*;
use postwarm_plugin_api::Phase;
use postwarm_plugin_testkit::preset::{Judged, assert_judged};

const REPLIES: &[Judged] = &[
    (
        "Domain after 7200 s",
        Phase::Mail,
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1",
    ),
    ("Domain after 14400 s", Phase::Mail, "421 4.7.0 [TSS05] Messages from 192.0.2.1 temporarily deferred"),
    ("Domain after 7200 s", Phase::Mail, "421 4.7.0 [TS01] Messages from 192.0.2.1 temporarily deferred due to user complaints"),
    (
        "Domain after 86400 s",
        Phase::Mail,
        "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed.",
    ),
    ("Domain after 7200 s", Phase::Mail, "421 [IPTS04] Messages from 192.0.2.1 temporarily deferred"),
    ("Domain", Phase::Mail, "553 5.7.2 [TSS09] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed."),
    ("Domain", Phase::Mail, "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list"),
    ("Content", Phase::EndOfData, "554 Message not allowed - [PH01] Email not accepted for policy reasons."),
    ("Content", Phase::EndOfData, "554 5.7.9 Message not accepted for policy reasons."),
    (
        "Domain",
        Phase::EndOfData,
        "550 5.7.9 This mail has been blocked because the sender is unauthenticated. Yahoo requires all senders to authenticate with either SPF or DKIM.",
    ),
    ("Domain", Phase::EndOfData, "451 Message temporarily deferred due to unresolvable RFC.5321 from domain."),
    ("Network after 1800 s", Phase::Rcpt, "450 User is receiving mail too quickly"),
    ("Network after 1 s", Phase::Mail, "421 Max message per connection reached, closing transmission channel"),
    ("Recipient", Phase::EndOfData, "552 1 Requested mail action aborted, mailbox not found"),
    ("Recipient", Phase::EndOfData, "554 delivery error: dd This user doesn't have a yahoo.com account (a@yahoo.com)"),
    ("Recipient", Phase::EndOfData, "554 30 Sorry, your message to a@yahoo.com cannot be delivered. This mailbox is disabled (554.30)."),
    ("Account", Phase::Mail, "535 5.7.0 (#AUTH005) Too many bad auth attempts."),
];

#[test]
fn every_published_reply_blames_the_right_one() {
    assert_judged(&YAHOO, REPLIES);
}
