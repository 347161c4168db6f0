//! Real replies and what they are taken for.

use super::*;
use postwarm_plugin_api::Phase;
use postwarm_plugin_testkit::preset::{Judged, assert_judged};

const REPLIES: &[Judged] = &[
    ("Domain after 3600 s", Phase::Mail, "421 4.7.28 Gmail has detected an unusual rate of mail originating from your IP address. - gsmtp"),
    (
        "Domain after 3600 s",
        Phase::EndOfData,
        "550 5.7.28 There is an unusual rate of unsolicited mail originating from your IP address. - gsmtp",
    ),
    ("Content", Phase::EndOfData, "421 4.7.28 Gmail has detected this message has the same message-id as another. - gsmtp"),
    (
        "Domain",
        Phase::EndOfData,
        "550 5.7.26 Unauthenticated email from acme.example is not accepted due to domain's DMARC policy. - gsmtp",
    ),
    (
        "Domain after 3600 s",
        Phase::EndOfData,
        "421 4.7.26 This mail has been rate limited because it is unauthenticated. Gmail requires all senders to authenticate with either SPF or DKIM. - gsmtp",
    ),
    ("Domain", Phase::EndOfData, "550 5.7.25 The IP address sending this message does not have a PTR record setup. - gsmtp"),
    (
        "Domain after 3600 s",
        Phase::EndOfData,
        "550 5.7.1 Gmail has detected that this message is likely suspicious due to the very low reputation of the sending domain. - gsmtp",
    ),
    ("Content", Phase::EndOfData, "550 5.7.1 Gmail has detected that this message is likely unsolicited mail. - gsmtp"),
    ("Network after 1800 s", Phase::Rcpt, "450 4.2.1 The user you are trying to contact is receiving mail too quickly. - gsmtp"),
    (
        "Network after 1800 s",
        Phase::Rcpt,
        "550 5.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered. - gsmtp",
    ),
    ("Account after 3600 s", Phase::Rcpt, "450 4.2.1 Peak SMTP relay limit exceeded for customer. - gsmtp"),
    ("Recipient", Phase::Rcpt, "452 4.2.2 The recipient's inbox is out of storage space. - gsmtp"),
    ("Recipient", Phase::Rcpt, "552 5.2.2 The recipient's inbox is out of storage space and inactive. - gsmtp"),
    (
        "Recipient",
        Phase::Rcpt,
        "550-5.1.1 The email account that you tried to reach does not exist. Please try\r\n550 5.1.1 double-checking the recipient's email address - gsmtp",
    ),
    ("Recipient", Phase::Rcpt, "550 5.2.1 The email account that you tried to reach is disabled. - gsmtp"),
    (
        "Account after 86400 s",
        Phase::Mail,
        "550 5.4.5 Daily user sending limit exceeded. For more information on Gmail sending limits go to - gsmtp",
    ),
    ("Account", Phase::Rcpt, "550 5.5.3 Too many recipients for this sender. - gsmtp"),
    ("Content", Phase::EndOfData, "552 5.3.4 Your message exceeded Google's message size limits. - gsmtp"),
    ("Account", Phase::Mail, "530 5.7.0 Authentication Required. - gsmtp"),
    ("Account after 3600 s", Phase::Mail, "454 4.7.0 Too many login attempts, please try again later. - gsmtp"),
    ("Network", Phase::EndOfData, "421 4.3.0 Temporary System Problem. Try again later. - gsmtp"),
];

#[test]
fn every_published_reply_blames_the_right_one() {
    assert_judged(&GMAIL, REPLIES);
}
