//! A data folder without room: what was acknowledged stays, the rest is refused in words, and it goes on when there is room.

use crate::broadcast::{Broadcast, site, within};
use crate::check::check;
use crate::harness::{Postwarm, Site, until};
use crate::scenario::{Line, Plan};
use crate::topics::Told;
use crate::volume::run as program;
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::script::Script;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The size of the disk, and more for each round: what is kept of its mail must fit once there is room again.
const DISK_MB: usize = 16;
const DISK_MB_PER_ROUND: usize = 8;
/// Requests until so many were refused.
const REFUSALS: usize = 20;
const REQUESTS_MAX: usize = 20_000;
/// Emails of a round that are taken while the disk fills.
const EMAILS_MORE_MAX: usize = 2;
/// From the room on the disk to the first request that is taken again, and to the first mail.
const RECOVERY_MAX: Duration = Duration::from_secs(5);

/// A small file system in memory.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn mount(at: PathBuf, megabytes: usize) -> Result<SmallDisk, String> {
        std::fs::create_dir_all(&at).map_err(|error| error.to_string())?;
        let size = format!("size={megabytes}m");
        let of_type: [&Path; 5] = ["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "tmpfs".as_ref()];
        program("mount", &[&of_type[..], &[&at]].concat())?;
        Ok(SmallDisk { at })
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        // Large blocks first, then single pages.
        for octets in [64 * 1024, 4 * 1024] {
            let block = vec![1_u8; octets];
            while ballast.write_all(&block).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(words) = program("umount", &[&self.at]) {
            eprintln!("{words}");
        }
    }
}

/// What was acknowledged, and how it was refused.
#[derive(Default)]
struct Asked {
    users: BTreeSet<String>,
    emails: BTreeSet<i64>,
    next: usize,
    refused: usize,
    /// Answers that are neither.
    wrong: Vec<String>,
}

impl Asked {
    /// One more user; none of the earlier emails is for him.
    async fn import(&mut self, postwarm: &Postwarm) -> bool {
        let address = format!("user{}@x.example", self.next);
        self.next += 1;
        let row = json!({"name": "Somebody ".repeat(20), "email_id": address}).to_string();
        let url = format!("{}/users/import", postwarm.warmup);
        let answer = postwarm.client.post(url).header("content-type", "application/x-ndjson").body(row).send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        let taken = self.judge("an import", status, 200, &body);
        if taken {
            self.users.insert(address);
        }
        taken
    }

    async fn send(&mut self, postwarm: &Postwarm) -> Option<Broadcast> {
        let email = json!({"from": "news@acme.example", "subject": "Hello", "body": "Hello"});
        let (status, body) = postwarm.post("/send", email).await;
        let taken = self.judge("an email", status, 202, &body);
        let broadcast = taken.then(|| Broadcast::accepted(&body, self.users.iter().cloned().collect()));
        self.emails.extend(broadcast.as_ref().map(|broadcast| broadcast.email));
        broadcast
    }

    /// Asks until so many requests were refused. The room that is left takes many: few emails of them, and all that come once it is full.
    async fn until_it_is_full(&mut self, postwarm: &Postwarm, broadcasts: &mut Vec<Broadcast>) {
        self.refused = 0;
        let few = broadcasts.len() + EMAILS_MORE_MAX;
        for request in 0..REQUESTS_MAX {
            if request % 10 == 9 && (broadcasts.len() < few || self.refused > 0) {
                broadcasts.extend(self.send(postwarm).await);
            } else {
                self.import(postwarm).await;
            }
            if self.refused >= REFUSALS {
                break;
            }
        }
    }

    fn judge(&mut self, what: &str, status: u16, taken: u16, body: &Value) -> bool {
        let is_problem = [503, 507].contains(&status) && ["store_full", "store_unavailable"].iter().any(|code| body["code"] == *code);
        self.refused += usize::from(is_problem);
        if status != taken && !is_problem {
            self.wrong.push(format!("{what} was answered with {status} {body}"));
        }
        status == taken
    }
}

pub async fn run(plan: Plan) -> Line {
    let mut line = Line::new(&plan);
    let rounds = plan.pick(2, 4, 10);
    let sink = Sink::start(Script { keep_content: false, ..Script::default() }).await;
    let site = site(&sink, &format!("[limits]\nper_second = {}\n", plan.pick(400, 400, 2_000)));
    let disk = match SmallDisk::mount(site.data(), DISK_MB + rounds * DISK_MB_PER_ROUND) {
        Ok(disk) => disk,
        Err(words) => return Line::skipped(&plan, &format!("no small file system can be mounted here: {words}")),
    };
    let mut asked = Asked::default();
    let mut postwarm = site.serve();
    for _ in 0..plan.pick(100, 200, 400) {
        asked.import(&postwarm).await;
    }
    let (mut broadcasts, mut slowest, mut slowest_mail) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        let under_way = asked.send(&postwarm).await;
        line.expect(under_way.is_some(), || "with room on the disk an email was refused".to_owned());
        broadcasts.extend(under_way);
        disk.fill();
        asked.until_it_is_full(&postwarm, &mut broadcasts).await;
        line.expect(asked.refused >= REFUSALS, || "the disk did not fill".to_owned());
        until("the service to say that it cannot write", async || {
            let (status, body) = postwarm.get("/readyz").await;
            ((status == 503 && body.to_string().contains("\"database\"")).then_some(()), body)
        })
        .await;
        let mail_before = sink.journal().accepted_count();
        // Every second time the process is killed, and starts with room.
        if round % 2 == 1 {
            postwarm.kill();
            disk.empty();
            postwarm = site.serve();
        } else {
            disk.empty();
        }
        let began = Instant::now();
        until("requests to be taken again", async || (asked.import(&postwarm).await.then_some(()), json!(asked.refused))).await;
        slowest = slowest.max(began.elapsed());
        // Where no mail has waited, this is the first.
        let next = asked.send(&postwarm).await;
        line.expect(next.is_some(), || "with room on the disk again an email was refused".to_owned());
        broadcasts.extend(next);
        within("mail again", sink.journal().accepts(mail_before + 1)).await;
        slowest_mail = slowest_mail.max(began.elapsed());
        line.faults += 1;
    }
    for (slowest, what) in [(slowest, "a request was taken"), (slowest_mail, "mail went out")] {
        line.expect(slowest <= RECOVERY_MAX, || format!("it took {slowest:.1?} until {what} again"));
        line.note(format!("{what} again {slowest:.1?} after there was room, at the slowest"));
    }
    compare(&mut line, "users", &asked.users, &users(&postwarm).await);
    compare(&mut line, "emails", &asked.emails, &emails(&postwarm).await);
    asked.wrong.truncate(5);
    line.broken.append(&mut asked.wrong);
    conclude(&mut line, broadcasts, postwarm, &site, &sink).await;
    line
}

/// Whom the service knows.
async fn users(postwarm: &Postwarm) -> BTreeSet<String> {
    listed(postwarm, "/emailIds").await.iter().map(|user| user.as_str().unwrap().to_owned()).collect()
}

/// Every email that the service accepted, as it says.
async fn emails(postwarm: &Postwarm) -> BTreeSet<i64> {
    listed(postwarm, "/emails").await.iter().map(|email| email["email_id"].as_i64().unwrap()).collect()
}

async fn listed(postwarm: &Postwarm, path: &str) -> Vec<Value> {
    let (status, list) = postwarm.get(path).await;
    assert_eq!(status, 200, "{path}");
    list.as_array().unwrap().clone()
}

/// What was acknowledged is there, and nothing that was refused.
fn compare<T: Ord>(line: &mut Line, what: &str, acknowledged: &BTreeSet<T>, there: &BTreeSet<T>) {
    let (lost, more) = (acknowledged.difference(there).count(), there.difference(acknowledged).count());
    line.expect(lost + more == 0, || {
        format!("{lost} {what} were acknowledged and are not there; {more} are there though they were refused")
    });
}

async fn conclude(line: &mut Line, mut broadcasts: Vec<Broadcast>, postwarm: Postwarm, site: &Site, sink: &Sink) {
    let mut shown = Vec::new();
    for broadcast in &mut broadcasts {
        shown.push(broadcast.settle(&postwarm, &postwarm).await);
    }
    assert_eq!(postwarm.terminate(), Some(0), "the exit code of a stop");
    let told = Told::embedded(site);
    for (broadcast, shown) in broadcasts.into_iter().zip(shown) {
        let evidence = broadcast.conclude(shown, &told, &[sink]);
        let found = check(&evidence);
        line.expect(found.duplicates == 0, || format!("{} messages came twice", found.duplicates));
        line.add(evidence.promised.len() as u64, found);
    }
}
