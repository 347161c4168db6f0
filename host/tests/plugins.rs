//! External plugins, dropped into the plugins directory of a running service: they are used once an organization names
//! them, and what is no good is said in words and harms nothing.

use crate::harness::{Postwarm, Site, until};
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::script::Script;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn c_library(source: &Path, defines: &[&str]) -> Vec<u8> {
    let flags: Vec<String> = defines.iter().map(|define| format!("-D{define}")).collect();
    compile(&std::fs::read_to_string(source).unwrap(), &[flags, vec!["-Wl,-z,defs".into()]].concat())
}

/// A plugin that passes every check of its file, and has a symbol that nobody defines.
fn does_not_load(kind: &str, id: &str) -> Vec<u8> {
    let source = format!(
        "#include \"postwarm_plugin.h\"\nPW_PLUGIN_NOTE({kind}, \"{id}\", \"9\");\nvoid there_is_no_such_function(void);\n\
         PW_EXPORT const pw_entry *postwarm_plugin_entry_v0(void) {{ there_is_no_such_function(); return 0; }}\n"
    );
    compile(&source, &[])
}

/// Compiles C beside the one header that it may need, and with nothing else in reach.
fn compile(source: &str, flags: &[String]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("plugin-api/include/postwarm_plugin.h"), folder.path().join("postwarm_plugin.h")).unwrap();
    std::fs::write(folder.path().join("plugin.c"), source).unwrap();
    let mut compiler = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
    compiler.args(["-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-I.", "-o", "plugin.so", "plugin.c", "-pthread"]);
    compiler.args(flags);
    let built = compiler.current_dir(folder.path()).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    std::fs::read(folder.path().join("plugin.so")).unwrap()
}

fn c_example() -> Vec<u8> {
    c_library(&root().join("plugins/examples/smtp-c/postwarm_example_c.c"), &[])
}

/// A Rust example, built by the Cargo of this test run into the same target directory.
fn rust_example(package: &str) -> Vec<u8> {
    let test = std::env::current_exe().unwrap();
    let target = test.ancestors().nth(3).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--offline", "-p", package, "--target-dir"]).arg(target).current_dir(root());
    let built = cargo.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    std::fs::read(target.join("debug").join(format!("lib{}.so", package.replace('-', "_")))).unwrap()
}

/// As a careful operator does it: a file beside the directory, then `mv`.
fn move_into_place(site: &Site, name: &str, octets: &[u8]) {
    let part = site.folder.path().join(name);
    std::fs::write(&part, octets).unwrap();
    std::fs::rename(part, site.plugins().join(name)).unwrap();
}

async fn listed_as(site: &Site, file: &str, words: &str) {
    until(&format!("{file} to be listed as {words}"), async || {
        let output = site.command(&["plugin", "list"]).arg("--data").arg(site.data()).output().unwrap();
        let list = String::from_utf8(output.stdout).unwrap();
        let found = list.lines().any(|line| line.contains(file) && line.contains(words));
        (found.then_some(()), Value::String(list))
    })
    .await;
}

/// Waits until the running service says of its plugins what is wanted.
async fn ready_says(postwarm: &Postwarm, is_wanted: impl Fn(&str) -> bool) {
    until("the plugins in /readyz", async || {
        let (status, body) = postwarm.get("/readyz?verbose").await;
        assert_eq!(status, 200, "a plugin never makes the service fail: {body}");
        let checks = body["checks"].as_array().unwrap();
        let plugins = checks.iter().find(|check| check["name"] == "plugins").unwrap();
        let detail = plugins["detail"].as_str().unwrap_or_default().to_owned();
        (is_wanted(&detail).then_some(()), body)
    })
    .await;
}

/// Changes the organization's file. Its second domain is the sign by which `broadcast` sees that it was taken up.
fn edit(site: &Site, sign: &str, text: &str) {
    site.organization("demo", &format!("from_domains = [\"acme.example\", \"{sign}.example\"]\ndevelopment = true\n{text}"));
}

fn client(name: &str, plugin: &str, sink: &Sink) -> String {
    let tls = if plugin == "smtp" { ", tls = \"none\"" } else { "" };
    let port = sink.addr.port();
    format!("[[smtp]]\nname = \"{name}\"\nplugin = \"{plugin}\"\nsettings = {{ host = \"127.0.0.1\", port = {port}{tls} }}\n")
}

/// Sends as soon as the edit with this client is taken up, and sees that it alone carried everything.
async fn broadcast(postwarm: &Postwarm, recipients: i64, client: &str) -> i64 {
    let email = until("the edit to be taken up", async || {
        let mail = json!({"from": format!("news@{client}.example"), "subject": "Hello", "body": "Hello"});
        let (status, body) = postwarm.post("/send", mail).await;
        assert!(status == 202 || body["code"] == "from_domain_not_allowed", "{status} {body}");
        (body["email_id"].as_i64(), body)
    })
    .await;
    postwarm.counts_when(email, |counts| counts["sent"].as_i64() == Some(recipients)).await;
    let (_, rows) = postwarm.get(&format!("/emails/{email}/deliveries")).await;
    assert!(rows.as_array().unwrap().iter().all(|row| row["client"] == client), "{rows}");
    email
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_in_rust_and_c_dropped_into_a_running_service_carry_the_next_broadcast() {
    let [built_in, rust, c] = [(); 3].map(|()| Sink::start(Script::default()));
    let (built_in, rust, c) = (built_in.await, rust.await, c.await);
    let taken = || [&built_in, &rust, &c].map(|sink| sink.journal().accepted().len());
    let site = Site::new();
    edit(&site, "first", &client("first", "smtp", &built_in));
    let postwarm = site.serve();
    postwarm.import(20, "x.example").await;
    broadcast(&postwarm, 20, "first").await;

    move_into_place(&site, "relay.so", &rust_example("postwarm-plugin-example-smtp-rust"));
    listed_as(&site, "relay.so", "available").await;
    edit(&site, "second", &client("second", "example-relay", &rust));
    broadcast(&postwarm, 20, "second").await;
    assert_eq!(taken(), [20, 20, 0]);

    // A copy that stands still half-way is told as cut off, and the whole file behind it is taken.
    let octets = c_example();
    let mut copy = std::fs::File::create(site.plugins().join("c.so")).unwrap();
    copy.write_all(&octets[..octets.len() / 2]).unwrap();
    ready_says(&postwarm, |detail| detail.contains("c.so") && detail.contains("cut off")).await;
    copy.write_all(&octets[octets.len() / 2..]).unwrap();
    drop(copy);
    ready_says(&postwarm, str::is_empty).await;
    edit(&site, "third", &client("third", "example-c", &c));
    broadcast(&postwarm, 20, "third").await;
    assert_eq!(taken(), [20, 20, 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_facts_of_a_csv_file_appear_in_the_figures() {
    let sink = Sink::start(Script::default()).await;
    let site = Site::new();
    edit(&site, "before", &client("relay", "smtp", &sink));
    let facts = site.folder.path().join("facts.csv");
    std::fs::write(&facts, "message_id,kind,at\n").unwrap();
    let postwarm = site.serve();
    move_into_place(&site, "csv.so", &rust_example("postwarm-plugin-example-csv-loop"));
    listed_as(&site, "csv.so", "available").await;
    let feedback = format!(
        "[[feedback]]\nplugin = \"example-csv\"\ndomains = [\"*\"]\ninterval = \"1s\"\nsettings = {{ path = \"{}\" }}\n",
        facts.display()
    );
    edit(&site, "relay", &(client("relay", "smtp", &sink) + &feedback));
    postwarm.import(12, "x.example").await;
    let email = broadcast(&postwarm, 12, "relay").await;

    let (_, rows) = postwarm.get(&format!("/emails/{email}/deliveries")).await;
    let kinds = ["delivered", "delivered", "delivered", "delivered", "spam", "opened", "opened", "read", "bounced"];
    let mut text = String::new();
    for (row, kind) in rows.as_array().unwrap().iter().zip(kinds) {
        writeln!(text, "{},{kind},", row["message_id"].as_str().unwrap()).unwrap();
    }
    std::fs::OpenOptions::new().append(true).open(&facts).unwrap().write_all(text.as_bytes()).unwrap();
    let stats = postwarm.stats_when(email, |stats| stats["bounced"] == 1).await;
    let figures = ["recipients", "delivered", "spam", "opened", "read", "bounced", "suppressed"].map(|key| stats[key].as_i64());
    assert_eq!(figures, [12, 8, 1, 2, 1, 1, 0].map(Some), "{stats}");

    // The good lines before a bad one count.
    let id = |row: usize| rows[row]["message_id"].as_str().unwrap();
    let text = format!("{},read,\n{},eaten,\n", id(9), id(10));
    std::fs::OpenOptions::new().append(true).open(&facts).unwrap().write_all(text.as_bytes()).unwrap();
    postwarm.stats_when(email, |stats| stats["read"] == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_plugin_is_said_in_words_and_harms_nothing() {
    let sink = Sink::start(Script::default()).await;
    let site = Site::new();
    edit(&site, "relay", &client("relay", "smtp", &sink));
    let postwarm = site.serve();
    postwarm.import(5, "x.example").await;
    let whole = c_example();
    let other_abi = c_library(&root().join("host/src/registry/tests/probe.c"), &["NOTE_ABI=7"]);
    move_into_place(&site, "truncated.so", &whole[..whole.len() / 3]);
    move_into_place(&site, "text.so", b"this is no plugin\n");
    move_into_place(&site, "library.so", &c_library(&root().join("host/src/registry/tests/probe.c"), &["NO_NOTE"]));
    move_into_place(&site, "abi.so", &other_abi);
    let wanted = [
        ("truncated.so", "cut off"),
        ("text.so", "no ELF library"),
        ("library.so", "no Postwarm plugin"),
        ("abi.so", "it is built for ABI 7, this host speaks 0: rebuild it"),
    ];
    ready_says(&postwarm, |detail| {
        wanted.iter().all(|(file, words)| detail.lines().any(|line| line.starts_with(file) && line.contains(words)))
    })
    .await;
    for (file, words) in wanted {
        listed_as(&site, file, words).await;
    }
    let list = site.command(&["plugin", "list"]).arg("--data").arg(site.data()).output().unwrap();
    assert_eq!(list.status.code(), Some(1), "a rejected file is a finding");
    broadcast(&postwarm, 5, "relay").await;
    assert_eq!(sink.journal().accepted().len(), 5);
    for (file, _) in wanted {
        std::fs::remove_file(site.plugins().join(file)).unwrap();
    }
    ready_says(&postwarm, str::is_empty).await;
    assert_eq!(postwarm.terminate(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_replaced_by_a_broken_file_goes_on_degraded_and_survives_a_restart() {
    let sink = Sink::start(Script::default()).await;
    let site = Site::new();
    let whole = c_example();
    move_into_place(&site, "c.so", &whole);
    listed_as(&site, "c.so", "available").await;
    edit(&site, "relay", &client("relay", "example-c", &sink));
    let postwarm = site.serve();
    postwarm.import(5, "x.example").await;
    broadcast(&postwarm, 5, "relay").await;
    move_into_place(&site, "c.so", &whole[..whole.len() / 2]);
    let words = |detail: &str| detail.starts_with("c.so: ") && detail.contains("cut off") && detail.contains("is used on");
    ready_says(&postwarm, words).await;
    let health = postwarm.client.get(format!("{}/readyz", postwarm.health)).send().await.unwrap().text().await.unwrap();
    assert!(health.contains("degraded") && health.contains("is used on"), "{health}");
    broadcast(&postwarm, 5, "relay").await;
    assert_eq!(postwarm.terminate(), Some(0));

    let postwarm = site.serve();
    ready_says(&postwarm, words).await;
    broadcast(&postwarm, 5, "relay").await;
    assert_eq!(sink.journal().accepted().len(), 15);
    move_into_place(&site, "c.so", &whole);
    ready_says(&postwarm, str::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_are_replaced_by_files_that_do_not_load_go_on_and_survive_a_restart() {
    let sink = Sink::start(Script::default()).await;
    let site = Site::new();
    let facts = site.folder.path().join("facts.csv");
    std::fs::write(&facts, "message_id,kind,at\n").unwrap();
    let whole = [("c.so", c_example()), ("csv.so", rust_example("postwarm-plugin-example-csv-loop"))];
    for (file, octets) in &whole {
        move_into_place(&site, file, octets);
        listed_as(&site, file, "available").await;
    }
    let feedback = format!(
        "[[feedback]]\nplugin = \"example-csv\"\ndomains = [\"*\"]\ninterval = \"1s\"\nsettings = {{ path = \"{}\" }}\n",
        facts.display()
    );
    edit(&site, "relay", &(client("relay", "example-c", &sink) + &feedback));
    // What the loop reports of a new broadcast is in the figures.
    let works = async |postwarm: &Postwarm| {
        let email = broadcast(postwarm, 3, "relay").await;
        let (_, rows) = postwarm.get(&format!("/emails/{email}/deliveries")).await;
        let line = format!("{},read,\n", rows[0]["message_id"].as_str().unwrap());
        std::fs::OpenOptions::new().append(true).open(&facts).unwrap().write_all(line.as_bytes()).unwrap();
        postwarm.stats_when(email, |stats| stats["read"] == 1).await;
    };
    let postwarm = site.serve();
    postwarm.import(3, "x.example").await;
    works(&postwarm).await;

    move_into_place(&site, "c.so", &does_not_load("PW_KIND_SMTP", "example-c"));
    move_into_place(&site, "csv.so", &does_not_load("PW_KIND_FEEDBACK", "example-csv"));
    let words = |detail: &str| {
        let said = |line: &str| line.contains("there_is_no_such_function") && line.contains("is used on");
        ["c.so: ", "csv.so: "].iter().all(|file| detail.lines().any(|line| line.starts_with(file) && said(line)))
    };
    ready_says(&postwarm, words).await;
    let health = postwarm.client.get(format!("{}/readyz?verbose", postwarm.health)).send().await.unwrap();
    let health: Value = health.json().await.unwrap();
    let plugins = health["checks"].as_array().unwrap().iter().find(|check| check["name"] == "plugins").unwrap();
    assert!(words(plugins["detail"].as_str().unwrap()), "{health}");
    works(&postwarm).await;
    assert_eq!(postwarm.terminate(), Some(0));

    let postwarm = site.serve();
    ready_says(&postwarm, words).await;
    works(&postwarm).await;
    for (file, octets) in &whole {
        move_into_place(&site, file, octets);
    }
    ready_says(&postwarm, str::is_empty).await;
    works(&postwarm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_replaced_by_one_whose_constructor_blocks_is_what_it_was_after_a_restart() {
    let sink = Sink::start(Script::default()).await;
    let site = Site::new();
    move_into_place(&site, "c.so", &c_example());
    listed_as(&site, "c.so", "available").await;
    edit(&site, "relay", &client("relay", "example-c", &sink));
    let postwarm = site.serve();
    postwarm.import(5, "x.example").await;
    broadcast(&postwarm, 5, "relay").await;
    let source = "#include <unistd.h>\n#include \"postwarm_plugin.h\"\nPW_PLUGIN_NOTE(PW_KIND_SMTP, \"example-c\", \"9\");\n\
                  __attribute__((constructor)) static void constructor(void) { for (;;) pause(); }\n\
                  PW_EXPORT const pw_entry *postwarm_plugin_entry_v0(void) { return 0; }\n";
    move_into_place(&site, "c.so", &compile(source, &[]));
    // Behind it the system loads nothing and new threads wait, so that this process cannot be asked any more; the next
    // must not try it first.
    until("the record that it blocks", async || {
        let files = std::fs::read_dir(site.data().join("plugins")).unwrap().map(|file| file.unwrap().file_name());
        let files: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
        (files.iter().any(|name| name.ends_with(".blocks")).then_some(()), json!(files))
    })
    .await;
    postwarm.kill();

    let words = |detail: &str| detail.starts_with("c.so: ") && detail.contains("its constructors block") && detail.contains("is used on");
    let postwarm = site.serve();
    ready_says(&postwarm, words).await;
    broadcast(&postwarm, 5, "relay").await;
    assert_eq!(sink.journal().accepted().len(), 10);
}

#[tokio::test]
async fn a_check_asks_a_dropped_plugin_about_its_settings_and_leaves_nothing_behind() {
    let sink = Sink::start(Script::default()).await;
    let site = Site::new();
    move_into_place(&site, "c.so", &c_example());
    listed_as(&site, "c.so", "available").await;
    let [here, temporary] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let check = || site.command(&["check"]).current_dir(here.path()).env("TMPDIR", temporary.path()).output().unwrap();
    for (plugin, code) in [(client("relay", "example-c", &sink), 0), ("[[smtp]]\nplugin = \"example-c\"\n".to_owned(), 78)] {
        edit(&site, "relay", &plugin);
        let output = check();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{shown}");
        assert_eq!(shown.contains("host"), code != 0, "the plugin was asked: {shown}");
        for folder in [&here, &temporary] {
            let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}
