//! Benches of a broadcast, against those who send the same.

use crate::peers::libraries::{AIOSMTPLIB, Letters, Library, NODEMAILER};
use crate::peers::{openssl, unpipelined};
use crate::product::broadcast::{Broadcast, broadcast as send};
use crate::product::content::Content;
use crate::product::setup::{Setup, Signer};
use crate::round::{Measured, Round, Sample};
use crate::rows::{sent, shown, times_as_fast};
use crate::sinks::{Address, Manner, Sink};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// The round trip of `rtt`.
const DELAY_MS: u32 = 20;
/// Connections of both sides of `rtt`.
const RTT_CONNECTIONS: usize = 10;

pub fn broadcast(round: &Round) -> Sample {
    times_as_fast(round.broadcast(), round.source())
}

pub fn broadcast_kafka(round: &Round) -> Sample {
    let ours = round.run(|| {
        let sink = Sink::postfix();
        send(&Setup { kafka: Some(round.broker().topics()), ..Setup::to(sink.address) }, round.sizes.rows, Content::Text)
    });
    times_as_fast(&ours, round.source())
}

pub fn cpu(round: &Round) -> Sample {
    let (ours, source) = (round.broadcast(), round.source());
    Sample { value: ours.found.sent.cpu_us / source.found.cpu_us, ..times_as_fast(ours, source) }
}

pub fn fast_sink(round: &Round) -> Sample {
    let ours = round.run(|| to_own(Manner::default(), round.sizes.rows, Setup::to));
    times_as_fast(&ours, round.source_to_own())
}

pub fn starttls(round: &Round) -> Sample {
    let ours = round.run(|| {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let certificate = folder.path().join("sink.pem");
        let settings = format!("tls = \"starttls\", tls_ca_file = {certificate:?}, tls_server_name = \"localhost\", ");
        let setup = |sink| Setup { settings, ..Setup::to(sink) };
        to_own(Manner { certificate: Some(&certificate), ..Manner::default() }, round.sizes.rows, setup)
    });
    times_as_fast(&ours, round.source_to_own())
}

pub fn rtt(round: &Round) -> Sample {
    let manner = Manner { delay_ms: DELAY_MS, ..Manner::default() };
    let setup = |sink| Setup { connections: RTT_CONNECTIONS, ..Setup::to(sink) };
    let ours = round.run(|| to_own(manner, round.sizes.slow(25), setup));
    let peer = round.run(|| unpipelined::send(Sink::own(manner).address, RTT_CONNECTIONS, round.sizes.slow(100)));
    times_as_fast(&ours, &peer)
}

/// To our own sink, which counts.
fn to_own(manner: Manner<'_>, recipients: usize, setup: impl FnOnce(Address) -> Setup) -> Broadcast {
    let mut sink = Sink::own(manner);
    let broadcast = send(&setup(sink.address), recipients, Content::Text);
    assert_eq!(sink.accepted(), recipients, "messages of postwarm");
    broadcast
}

pub fn nodemailer(round: &Round) -> Sample {
    library(round, &NODEMAILER, 20)
}

pub fn aiosmtplib(round: &Round) -> Sample {
    library(round, &AIOSMTPLIB, 50)
}

/// A part of the messages takes as long as the broadcast or longer.
fn library(round: &Round, library: &Library, part: usize) -> Sample {
    let run = |letters| round.run(|| library.send(Sink::postfix().address, round.sizes.slow(part), letters));
    let (made, ready) = (run(Letters::Made), run(Letters::Ready));
    let mut sample = times_as_fast(round.broadcast(), &made);
    sample.from["peer_with_ready_messages"] = sent(&ready.found);
    sample
}

pub fn dkim_ed25519(round: &Round) -> Sample {
    let key = Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1()).expect("a key can be made");
    let ours = signed(round, "ed25519-sha256", key.as_ref(), round.sizes.rows);
    times_as_fast(&ours, &round.source_again())
}

pub fn dkim_rsa(round: &Round) -> Sample {
    let key = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).expect("a key can be made");
    let key: Pkcs8V1Der<'_> = key.as_der().expect("it has a form");
    let ours = signed(round, "rsa-sha256", key.as_ref(), round.sizes.slow(20));
    let most = round.run(openssl::rsa_signatures_per_second);
    let from = json!({ "postwarm": shown(&ours.found), "openssl_per_second": most.found.round() });
    Sample { value: ours.found.sent.per_second / most.found, from, noise: ours.noise.or(most.noise) }
}

fn signed(round: &Round, algorithm: &'static str, key: &[u8], recipients: usize) -> Measured<Broadcast> {
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(key));
    round.run(|| {
        let sink = Sink::postfix();
        let signer = Some(Signer { algorithm, pem: pem.clone() });
        send(&Setup { signer, ..Setup::to(sink.address) }, recipients, Content::Text)
    })
}

pub fn templates(round: &Round) -> Sample {
    let run = |content| round.run(|| send(&Setup::to(Sink::postfix().address), round.sizes.rows, content));
    let (with, without) = (run(Content::Templates), run(Content::Html));
    let from = json!({ "with": sent(&with.found.sent), "without": sent(&without.found.sent) });
    Sample { value: with.found.sent.per_second / without.found.sent.per_second, from, noise: with.noise.or(without.noise) }
}
