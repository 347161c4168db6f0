//! Real replies and what they are taken for.

use super::*;
use expect_test::expect;
use postwarm_plugin_api::Phase;
use postwarm_plugin_testkit::preset::{assert_credentials_are_enough, judged};

const REPLIES: &[(&str, Phase)] = &[
    ("451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. (S775)", Phase::Mail),
    ("451 4.7.500 Server busy. Please try again later from [192.0.2.1].", Phase::Mail),
    (
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).",
        Phase::Mail,
    ),
    ("550 5.7.511 Access denied, banned sender[192.0.2.1].", Phase::Mail),
    ("550 5.7.606 Access denied, banned sending IP [192.0.2.1].", Phase::Mail),
    ("550 5.7.508 Access denied, [192.0.2.1] has exceeded permitted limits within range(s)", Phase::Mail),
    ("550 5.7.515 Access denied, sending domain ACME.EXAMPLE does not meet the required authentication level.", Phase::EndOfData),
    (
        "550 5.7.509 Access denied, sending domain acme.example does not pass DMARC verification and has a DMARC policy of reject.",
        Phase::EndOfData,
    ),
    ("550 5.7.23 The message was rejected because of Sender Policy Framework violation", Phase::EndOfData),
    ("550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", Phase::EndOfData),
    ("550 5.4.1 Recipient address rejected: Access denied. AS(201806281)", Phase::Rcpt),
    ("552 5.2.2 Mailbox full", Phase::Rcpt),
    ("550 5.2.121 Recipient's per hour message receive limit exceeded.", Phase::Rcpt),
    ("550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients", Phase::Rcpt),
    ("550 5.1.8 Access denied, bad outbound sender", Phase::Mail),
    ("530 5.7.57 Client not authenticated to send mail.", Phase::Mail),
    ("550 5.7.30 Basic authentication is not supported for Client Submission.", Phase::Mail),
    ("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", Phase::EndOfData),
    ("554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException", Phase::EndOfData),
    ("550 Requested action not taken: mailbox unavailable", Phase::Rcpt),
    ("421 4.3.2 Service not available", Phase::Mail),
];

#[test]
fn every_published_reply_blames_the_right_one() {
    expect![[r#"
        Domain after 3600 s: 451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation. (S775)
        Network: 451 4.7.500 Server busy. Please try again later from [192.0.2.1].
        Domain: 550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).
        Domain: 550 5.7.511 Access denied, banned sender[192.0.2.1].
        Domain: 550 5.7.606 Access denied, banned sending IP [192.0.2.1].
        Domain after 3600 s: 550 5.7.508 Access denied, [192.0.2.1] has exceeded permitted limits within range(s)
        Domain: 550 5.7.515 Access denied, sending domain ACME.EXAMPLE does not meet the required authentication level.
        Domain: 550 5.7.509 Access denied, sending domain acme.example does not pass DMARC verification and has a DMARC policy of reject.
        Domain: 550 5.7.23 The message was rejected because of Sender Policy Framework violation
        Recipient: 550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup
        Recipient: 550 5.4.1 Recipient address rejected: Access denied. AS(201806281)
        Recipient: 552 5.2.2 Mailbox full
        Network after 3600 s: 550 5.2.121 Recipient's per hour message receive limit exceeded.
        Account after 86400 s: 550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients
        Account: 550 5.1.8 Access denied, bad outbound sender
        Account: 530 5.7.57 Client not authenticated to send mail.
        Account: 550 5.7.30 Basic authentication is not supported for Client Submission.
        Account after 60 s: 432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded
        Account after 86400 s: 554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException
        Recipient: 550 Requested action not taken: mailbox unavailable
        Network: 421 4.3.2 Service not available
    "#]].assert_eq(&judged(&OUTLOOK, REPLIES));
}

#[test]
fn a_user_name_and_a_password_are_enough() {
    assert_credentials_are_enough(&OUTLOOK);
}
