//! Checks of what arrives at a sound server, and of refusals.
//!
//! Invariant: contents are compared octet by octet.

use super::smtp::{Pointed, accepted, message, pair, send_all, soon};
use super::{Finding, Report, ensure};
use crate::sink::journal::Fact;
use crate::sink::script::{Action, Rule, Script, Step};
use postwarm_plugin_api::Outcome;

pub async fn checks(report: &mut Report, suite: Pointed<'_>) {
    report.check("contents arrive octet by octet", contents_arrive(suite, Script::default())).await;
    let bare = Script::default().without("PIPELINING").without("SIZE").without("ENHANCEDSTATUSCODES");
    report.check("contents arrive at a server without extensions but 8BITMIME", contents_arrive(suite, bare)).await;
    report.check("a refused recipient is rejected and the next message is accepted", refused(suite)).await;
    report.check("a refused content is rejected and the next message is accepted", refused_content(suite)).await;
    report.check("a reply of 4yz is deferred and may be tried again", deferred(suite)).await;
    report.check("every concurrent send is answered once and credited rightly", concurrent(suite)).await;
    report.check("verify succeeds against a sound server and sends nothing", verify(suite)).await;
}

fn bodies() -> Vec<Vec<u8>> {
    let long_line = [vec![b'x'; 998], b"\r\n".to_vec()].concat();
    let dotted_long_line = [vec![b'.'; 998], b"\r\n".to_vec()].concat();
    let mut large = Vec::with_capacity(1 << 20);
    while large.len() < 1 << 20 {
        large.extend_from_slice(format!(".line {} \u{e4}\u{20ac}\r\n..\r\n", large.len()).as_bytes());
    }
    let eight_bit = [(128..=255).collect::<Vec<u8>>(), b"\r\n".to_vec()].concat();
    [b"".as_slice(), b".\r\n", b"..\r\n", b".x\r\nx.\r\n.\r\n.\r\n", b"\r\n.\r\n\r\n", b"RCPT TO:<x@y>\r\nQUIT\r\n"]
        .into_iter()
        .map(<[u8]>::to_vec)
        .chain([long_line, dotted_long_line, eight_bit, large])
        .collect()
}

async fn contents_arrive(suite: Pointed<'_>, script: Script) -> Finding {
    let (sink, client) = pair(suite, script).await?;
    let messages: Vec<_> = bodies().iter().enumerate().map(|(n, body)| message(n, &format!("r{n}@example.com"), body)).collect();
    for (to, outcome) in send_all(&client, messages.clone()).await {
        accepted(&outcome).map_err(|found| format!("{to}: {found}"))?;
    }
    let entries = sink.journal().entries();
    for sent in messages {
        let arrived: Vec<&Vec<u8>> = entries
            .iter()
            .filter_map(|entry| match &entry.fact {
                Fact::Content { to, bytes, .. } if to.iter().any(|to| to.contains(&*sent.envelope_to)) => Some(bytes),
                _ => None,
            })
            .collect();
        let wanted = [&sent.header[..], &sent.body[..]].concat();
        ensure(arrived == [&wanted], || {
            let lengths: Vec<usize> = arrived.iter().map(|bytes| bytes.len()).collect();
            format!("{}: {} octets were sent, and these many arrived, or others: {lengths:?}", sent.envelope_to, wanted.len())
        })?;
    }
    Ok(())
}

async fn refused(suite: Pointed<'_>) -> Finding {
    let rule = Rule::new(Step::Rcpt, Action::reply("550 5.1.1 no such user here")).recipient("nobody@");
    let (sink, client) = pair(suite, Script::default().rule(rule)).await?;
    for n in 0..3 {
        let outcome = client.send(message(n, "nobody@example.com", b"x\r\n"), soon()).await;
        let Outcome::Rejected { reply, .. } = &outcome else { return Err(format!("expected rejected, got {outcome:?}")) };
        ensure(reply.code == 550 && reply.text.contains("no such user here"), || format!("the reply became {reply:?}"))?;
        ensure(reply.enhanced.is_some_and(|code| (code.0, code.1, code.2) == (5, 1, 1)), || format!("5.1.1 became {:?}", reply.enhanced))?;
        accepted(&client.send(message(n + 10, "somebody@example.com", b"x\r\n"), soon()).await)?;
    }
    let contents = sink.journal().count(|entry| matches!(entry.fact, Fact::Content { .. }));
    ensure(contents == 3, || format!("3 messages were accepted, and {contents} contents arrived"))
}

async fn refused_content(suite: Pointed<'_>) -> Finding {
    let rule = Rule::new(Step::EndOfData, Action::reply("554 5.6.0 not this content")).recipient("picky@");
    let (_sink, client) = pair(suite, Script::default().rule(rule)).await?;
    let outcome = client.send(message(1, "picky@example.com", b"x\r\n"), soon()).await;
    ensure(matches!(&outcome, Outcome::Rejected { reply, .. } if reply.code == 554), || format!("expected rejected, got {outcome:?}"))?;
    accepted(&client.send(message(2, "somebody@example.com", b"x\r\n"), soon()).await)
}

async fn deferred(suite: Pointed<'_>) -> Finding {
    for step in [Step::Mail, Step::Rcpt, Step::EndOfData] {
        let rule = Rule::new(step, Action::reply("451 4.3.0 not now")).times(1);
        let (_sink, client) = pair(suite, Script::default().rule(rule)).await?;
        let outcome = client.send(message(1, "later@example.com", b"x\r\n"), soon()).await;
        ensure(matches!(&outcome, Outcome::Deferred { reply, .. } if reply.code == 451), || {
            format!("expected deferred at {step:?}, got {outcome:?}")
        })?;
        accepted(&client.send(message(1, "later@example.com", b"x\r\n"), soon()).await)?;
    }
    Ok(())
}

async fn concurrent(suite: Pointed<'_>) -> Finding {
    let script = Script::default()
        .rule(Rule::new(Step::Rcpt, Action::reply("550 5.1.1 unknown")).recipient("unknown"))
        .rule(Rule::new(Step::EndOfData, Action::reply("452 4.2.2 full")).recipient("full"));
    let (sink, client) = pair(suite, script).await?;
    let name = |n: usize| ["good", "good", "unknown", "good", "full"][n % 5];
    let messages = (0..400).map(|n| message(n, &format!("{}-{n}@example.com", name(n)), b"x\r\n")).collect();
    let outcomes = send_all(&client, messages).await;
    ensure(outcomes.len() == 400, || format!("{} answers for 400 messages", outcomes.len()))?;
    let journal_accepted = sink.journal().accepted();
    for (to, outcome) in outcomes {
        let (fits, arrivals) = match to.split('-').next() {
            Some("good") => (matches!(outcome, Outcome::Accepted(_)), 1),
            Some("unknown") => (matches!(outcome, Outcome::Rejected { .. }), 0),
            _ => (matches!(outcome, Outcome::Deferred { .. }), 0),
        };
        ensure(fits, || format!("{to} was credited with {outcome:?}"))?;
        let count = journal_accepted.iter().filter(|accepted| accepted.contains(&to)).count();
        ensure(count == arrivals, || format!("{to} arrived {count} times instead of {arrivals}"))?;
    }
    Ok(())
}

async fn verify(suite: Pointed<'_>) -> Finding {
    let (sink, client) = pair(suite, Script::default()).await?;
    client.verify(soon()).await?;
    let mails = sink.journal().count(|entry| matches!(entry.fact, Fact::Mail(_)));
    ensure(mails == 0, || format!("it began {mails} transactions"))
}
