//! Clients that mean ill, or are broken, at both REST ports: others are answered meanwhile, and the process stays small.

use crate::broadcast::{Broadcast, site};
use crate::check::check;
use crate::harness::Postwarm;
use crate::process::{Usage, allow_files, usage};
use crate::scenario::{Line, Plan};
use futures_util::future::join_all;
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::script::Script;
use reqwest::Response;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// What the process may grow by.
const GROWTH_MAX_KIB: u64 = 128 * 1024;
/// In which 99 of 100 requests of others are answered.
const P99_MAX: Duration = Duration::from_millis(500);
/// The same for the small size, whose hundred requests say nothing of a hundredth of them, on whatever machine: that none hangs.
const P99_MAX_SMALL: Duration = Duration::from_secs(10);
const REQUEST_EVERY: Duration = Duration::from_millis(20);
/// A body of this length is taken, and one of the other is not.
const TAKEN_OCTETS: usize = 1024 * 1024;
const LARGE_OCTETS: usize = 3 * 1024 * 1024;
const NESTED: usize = 400_000;
const DRIP: Duration = Duration::from_millis(500);
/// Between two connections of an attacker, who shares the processors with those he attacks.
const ATTACK_EVERY: Duration = Duration::from_millis(20);
/// Between two of one who only keeps them.
const IDLE_EVERY: Duration = Duration::from_secs(5);

/// What an attacker does with one connection after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    Idle,
    SlowHead,
    SlowBody,
    /// Sends almost all of a body at once, and no more.
    StalledBody,
    /// Asks from time to time, and keeps its connection.
    Kept,
    /// Asks and does not read the answer.
    SlowRead,
    LargeBody,
    ChunkedBody,
    DeepJson,
    UnknownKeys,
}

/// How many attackers of each kind there are at each port, besides the idle ones; and at the full size, where each of two kinds alone would
/// take all places.
const ATTACKERS: [(Attack, usize, usize); 9] = [
    (Attack::SlowHead, 100, 100),
    (Attack::SlowBody, 100, 1_200),
    (Attack::StalledBody, 100, 100),
    (Attack::Kept, 20, 1_200),
    (Attack::SlowRead, 50, 50),
    (Attack::LargeBody, 4, 4),
    (Attack::ChunkedBody, 4, 4),
    (Attack::DeepJson, 4, 4),
    (Attack::UnknownKeys, 4, 4),
];

/// What attackers were answered.
#[derive(Debug, Default)]
struct Answers {
    connections: AtomicU64,
    /// Attacks that got a success; none should.
    taken: AtomicU64,
}

pub async fn run(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let (seconds, idle, recipients) = plan.pick((4, 200, 200), (15, 3_000, 1_000), (60, 10_000, 5_000));
    if let Err(words) = allow_files(idle + 8_192) {
        return Line::skipped(&plan, &format!("so many files cannot be open here: {words}"));
    }
    let sink = Sink::start(Script { keep_content: false, ..Script::default() }).await;
    let site = site(&sink, "[limits]\nper_second = 200\n");
    let postwarm = site.serve();
    let addresses: Vec<SocketAddr> = [&postwarm.warmup, &postwarm.health].map(|url| url["http://".len()..].parse().unwrap()).to_vec();
    // Its own mail goes on, too.
    let broadcast = Broadcast::begin(&postwarm, recipients).await;
    let before = usage(&postwarm);
    let answers = Arc::new(Answers::default());
    // Threads of their own: those who ask are not to wait for their attackers in their own program.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    let mut attackers = attack_all(runtime.handle(), &addresses, &plan, idle, &answers);
    let (asked, largest) = ask_meanwhile(&postwarm, before, Instant::now() + Duration::from_secs(seconds)).await;
    attackers.shutdown().await;
    runtime.shutdown_background();
    let connections = answers.connections.load(Ordering::Relaxed);
    line.faults = connections;
    let p99_max = plan.pick(P99_MAX_SMALL, P99_MAX, P99_MAX);
    for (who, Asked { mut took, failed, first_failure }) in asked {
        took.sort_unstable();
        let p99 = took.get(took.len() * 99 / 100).copied().unwrap_or(Duration::MAX);
        line.note(format!("{who}: {} answers, p99 {p99:.1?}, {failed} failed", took.len()));
        line.expect(p99 <= p99_max && failed == 0, || format!("{who}: p99 {p99:.1?}, {failed} failed, first with: {first_failure}"));
    }
    let growth = largest.resident_kib.saturating_sub(before.resident_kib);
    line.note(format!(
        "memory: {} MB before, {} MB at the most, with {} files and {} threads",
        before.resident_kib / 1024,
        largest.resident_kib / 1024,
        largest.files,
        largest.threads
    ));
    line.expect(growth <= GROWTH_MAX_KIB, || format!("the process grew by {growth} KiB"));
    let taken = answers.taken.load(Ordering::Relaxed);
    line.expect(taken == 0, || format!("{taken} attacks were answered with success"));
    let found = check(&broadcast.evidence(postwarm, &site, &[&sink]).await);
    line.expect(found.duplicates == 0 && found.unknown_listed == 0, || "mail suffered".to_owned());
    line.add(recipients as u64, found);
    line
}

/// All attackers of both ports; dropped, they stop.
fn attack_all(runtime: &Handle, addresses: &[SocketAddr], plan: &Plan, idle: usize, answers: &Arc<Answers>) -> JoinSet<()> {
    let mut attackers = JoinSet::new();
    for address in addresses {
        let idle = idle / addresses.len();
        for (attack, usual, full) in ATTACKERS.into_iter().chain([(Attack::Idle, idle, idle)]) {
            for _ in 0..plan.pick(usual, usual, full) {
                attackers.spawn_on(attack_for_ever(attack, *address, Arc::clone(answers)), runtime);
            }
        }
    }
    attackers
}

/// What others were answered until then, and the most that the process held.
async fn ask_meanwhile(postwarm: &Postwarm, before: Usage, until: Instant) -> ([(&'static str, Asked); 4], Usage) {
    let (kept, fresh) = (reqwest::Client::new(), reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap());
    let (users, stats) = (format!("{}/users?limit=1", postwarm.warmup), format!("{}/all_mail_stats", postwarm.health));
    let most = async {
        let mut most = before;
        while Instant::now() < until {
            let now = usage(postwarm);
            most = if now.resident_kib > most.resident_kib { now } else { most };
            tokio::time::sleep(REQUEST_EVERY * 5).await;
        }
        most
    };
    let asking = [(&kept, &users), (&fresh, &users), (&kept, &stats), (&fresh, &stats)].map(|(client, url)| ask(client, url, until));
    let (asked, most) = tokio::join!(join_all(asking), most);
    let who = ["warmup over kept connections", "warmup over new ones", "health over kept connections", "health over new ones"];
    let mut asked = asked.into_iter();
    (who.map(|who| (who, asked.next().expect("as many as were asked"))), most)
}

/// How long each answer took.
struct Asked {
    took: Vec<Duration>,
    failed: usize,
    first_failure: String,
}

/// Asks again and again, as somebody does who means no ill.
async fn ask(client: &reqwest::Client, url: &str, until: Instant) -> Asked {
    let mut asked = Asked { took: Vec::new(), failed: 0, first_failure: String::new() };
    while Instant::now() < until {
        let began = Instant::now();
        let answer = client.get(url).timeout(Duration::from_secs(30)).send().await;
        let answered = match answer.and_then(Response::error_for_status) {
            Ok(answer) => answer.bytes().await.map(drop),
            Err(error) => Err(error),
        };
        asked.took.push(began.elapsed());
        if let Err(error) = answered {
            if asked.failed == 0 {
                asked.first_failure = format!("{error:?} after {:.1?}", began.elapsed());
            }
            asked.failed += 1;
        }
        tokio::time::sleep(REQUEST_EVERY).await;
    }
    asked
}

async fn attack_for_ever(attack: Attack, address: SocketAddr, answers: Arc<Answers>) {
    loop {
        let Ok(stream) = TcpStream::connect(address).await else {
            tokio::time::sleep(DRIP).await;
            continue;
        };
        answers.connections.fetch_add(1, Ordering::Relaxed);
        // A connection that breaks is an answer as well.
        let answered = once(attack, stream).await.unwrap_or_default();
        let is_success = answered.starts_with("HTTP/1.1 2");
        if is_success && attack != Attack::SlowRead {
            answers.taken.fetch_add(1, Ordering::Relaxed);
        }
        let keeps = [Attack::Idle, Attack::Kept, Attack::SlowBody].contains(&attack);
        tokio::time::sleep(if keeps { IDLE_EVERY } else { ATTACK_EVERY }).await;
    }
}

/// What comes back until the server has enough.
async fn once(attack: Attack, mut stream: TcpStream) -> std::io::Result<String> {
    let post =
        |length: usize| format!("POST /register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    match attack {
        Attack::Idle => {}
        Attack::SlowHead => {
            stream.write_all(b"GET /users HTTP/1.1\r\nHost: x\r\nX-Slow: ").await?;
            drip(&mut stream).await?;
        }
        Attack::SlowBody => {
            stream.write_all(post(100_000).as_bytes()).await?;
            drip(&mut stream).await?;
        }
        Attack::StalledBody => {
            stream.write_all(post(TAKEN_OCTETS).as_bytes()).await?;
            stream.write_all(&vec![b' '; TAKEN_OCTETS - 1]).await?;
        }
        Attack::Kept => loop {
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await?;
            if stream.read(&mut [0; 4096]).await? == 0 {
                return Ok(String::new());
            }
            tokio::time::sleep(DRIP * 2).await;
        },
        Attack::SlowRead => {
            for _ in 0..1_000 {
                stream.write_all(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n").await?;
            }
            tokio::time::sleep(DRIP * 60).await;
        }
        Attack::LargeBody => {
            stream.write_all(post(LARGE_OCTETS).as_bytes()).await?;
            stream.write_all(&vec![b' '; LARGE_OCTETS]).await?;
        }
        Attack::ChunkedBody => {
            let head = "POST /register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await?;
            let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
            for _ in 0..LARGE_OCTETS / 0x10000 {
                stream.write_all(chunk.as_bytes()).await?;
            }
        }
        Attack::DeepJson => {
            stream.write_all(post(NESTED).as_bytes()).await?;
            stream.write_all("[".repeat(NESTED).as_bytes()).await?;
        }
        Attack::UnknownKeys => {
            let key = fastrand::u64(..);
            let head = format!("GET /users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
        }
    }
    let mut answer = vec![0; 512];
    let length = stream.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// An octet from time to time, until the server closes.
async fn drip(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut closed = [0; 1];
    loop {
        tokio::select! {
            _ = stream.peek(&mut closed) => return Ok(()),
            () = tokio::time::sleep(DRIP) => stream.write_all(b"a").await?,
        }
    }
}
