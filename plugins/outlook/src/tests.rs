//! Real replies and what they are taken for.

use super::*;
use postwarm_plugin_api::Phase;
use postwarm_plugin_testkit::preset::{Judged, assert_judged};

const REPLIES: &[Judged] = &[
    (
        "Domain after 3600 s",
        Phase::Mail,
        "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. (S775)",
    ),
    ("Network", Phase::Mail, "451 4.7.500 Server busy. Please try again later from [192.0.2.1]."),
    (
        "Domain",
        Phase::Mail,
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).",
    ),
    ("Domain", Phase::Mail, "550 5.7.511 Access denied, banned sender[192.0.2.1]."),
    ("Domain", Phase::Mail, "550 5.7.606 Access denied, banned sending IP [192.0.2.1]."),
    ("Domain after 3600 s", Phase::Mail, "550 5.7.508 Access denied, [192.0.2.1] has exceeded permitted limits within range(s)"),
    ("Domain", Phase::EndOfData, "550 5.7.515 Access denied, sending domain ACME.EXAMPLE does not meet the required authentication level."),
    (
        "Domain",
        Phase::EndOfData,
        "550 5.7.509 Access denied, sending domain acme.example does not pass DMARC verification and has a DMARC policy of reject.",
    ),
    ("Domain", Phase::EndOfData, "550 5.7.23 The message was rejected because of Sender Policy Framework violation"),
    ("Recipient", Phase::EndOfData, "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"),
    ("Recipient", Phase::Rcpt, "550 5.4.1 Recipient address rejected: Access denied. AS(201806281)"),
    ("Recipient", Phase::Rcpt, "552 5.2.2 Mailbox full"),
    ("Network after 3600 s", Phase::Rcpt, "550 5.2.121 Recipient's per hour message receive limit exceeded."),
    (
        "Account after 86400 s",
        Phase::Rcpt,
        "550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients",
    ),
    ("Account", Phase::Mail, "550 5.1.8 Access denied, bad outbound sender"),
    ("Account", Phase::Mail, "530 5.7.57 Client not authenticated to send mail."),
    ("Account", Phase::Mail, "550 5.7.30 Basic authentication is not supported for Client Submission."),
    ("Account after 60 s", Phase::EndOfData, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded"),
    ("Account after 86400 s", Phase::EndOfData, "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException"),
    ("Recipient", Phase::Rcpt, "550 Requested action not taken: mailbox unavailable"),
    ("Network", Phase::Mail, "421 4.3.2 Service not available"),
];

#[test]
fn every_published_reply_blames_the_right_one() {
    assert_judged(&OUTLOOK, REPLIES);
}
