//! The command line: what it prints, and the exit codes that scripts and units rely on.

use crate::harness::{Site, until};
use postwarm_plugin_testkit::sink::Sink;
use postwarm_plugin_testkit::sink::script::{Action, Rule, Script, Step};
use std::process::{Command, Output, Stdio};

const DEMO: &str = "[[smtp]]\nname = \"sandbox\"\nplugin = \"sandbox\"\n";
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const CONFIGURATION: i32 = 78;

fn postwarm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postwarm")).args(arguments).env_remove("PORT").output().unwrap()
}

/// Runs a command that ends by itself; answers its exit code and what it says on standard error.
fn ends(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn serve(site: &Site, arguments: &[&str]) -> Command {
    let mut command = site.command(arguments);
    command.arg("--data").arg(site.data());
    command
}

fn port_of(url: &str) -> &str {
    url.rsplit(':').next().unwrap()
}

#[test]
fn help_and_version_are_no_mistakes_and_name_the_commands_and_exit_codes() {
    let help = postwarm(&["--help"]);
    let text = String::from_utf8(help.stdout).unwrap();
    assert_eq!(help.status.code(), Some(0));
    for word in ["serve", "check", "plugin", "key", "healthcheck", "64", "69", "78"] {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
    assert!(text.lines().count() <= 24, "help fits one screen:\n{text}");
    let version = postwarm(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(String::from_utf8(version.stdout).unwrap(), format!("postwarm {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_of_key_new_says_who_may_read_the_file_and_what_data_is_for() {
    let help = String::from_utf8(postwarm(&["key", "new", "--help"]).stdout).unwrap();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for wanted in ["the mode and the group of ORG.toml", "Changes nothing, since no key lies in the data folder"] {
        assert!(words.contains(wanted), "`{wanted}` is missing in:\n{help}");
    }
}

#[test]
fn wrong_usage_ends_with_64() {
    let wrong: [&[&str]; 6] = [&[], &["sreve"], &["serve", "both"], &["serve", "--prot", "1"], &["healthcheck"], &["key", "new"]];
    for arguments in wrong {
        let output = postwarm(arguments);
        assert_eq!(output.status.code(), Some(USAGE), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_configuration_without_a_usable_organization_ends_with_78_and_says_where() {
    let site = Site::new();
    site.organization("acme", "from_domain = [\"acme.example\"]\n");
    let (code, words) = ends(serve(&site, &["serve"]));
    assert_eq!(code, Some(CONFIGURATION), "{words}");
    assert!(words.contains("acme.toml:1:1: ") && words.contains("from_domains"), "{words}");
    let site = Site::with_organization(DEMO);
    site.append("[warmpu]");
    let (code, words) = ends(serve(&site, &["serve"]));
    assert_eq!(code, Some(CONFIGURATION), "{words}");
    assert!(words.contains("postwarm.toml:") && words.contains("did you mean `warmup`?"), "{words}");
}

#[test]
fn a_log_that_is_not_understood_ends_with_64_and_names_the_remedy() {
    for (name, bad, remedy) in
        [("RUST_LOG", "bad[[", "info"), ("RUST_LOG", "postwarm=loud", "info"), ("POSTWARM_LOG_FORMAT", "jsn", "json")]
    {
        let site = Site::with_organization(DEMO);
        let mut command = serve(&site, &["serve"]);
        command.env(name, bad);
        let (code, words) = ends(command);
        assert_eq!(code, Some(USAGE), "{name}={bad}: {words}");
        assert!(words.contains(name) && words.contains(bad) && words.contains(remedy), "{words}");
    }
}

#[test]
fn health_alone_with_the_embedded_log_ends_with_78_and_the_remedy() {
    let site = Site::with_organization(DEMO);
    let (code, words) = ends(serve(&site, &["serve", "health"]));
    assert_eq!(code, Some(CONFIGURATION), "{words}");
    assert!(words.contains("KAFKA_BROKERS") && words.contains("serve both in one process"), "{words}");
}

#[tokio::test]
async fn a_port_that_is_taken_and_a_folder_that_is_held_end_with_69() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let site = Site::with_organization(DEMO);
    let running = site.serve();
    let (code, words) = ends(serve(&site, &["serve"]));
    assert_eq!(code, Some(UNAVAILABLE), "the folder is held: {words}");
    drop(running);
    let site = Site::with_organization(DEMO).env("PORT", &port.to_string());
    let (code, words) = ends(serve(&site, &["serve", "warmup"]));
    assert_eq!(code, Some(UNAVAILABLE), "{words}");
    assert!(words.contains(&format!("127.0.0.1:{port}")) && words.contains("PORT"), "{words}");
}

#[tokio::test]
async fn a_port_of_the_second_service_that_is_taken_ends_with_69_too() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let site = Site::with_organization(DEMO);
    let text = format!("[warmup]\nlisten = \"127.0.0.1:0\"\n[health]\nlisten = \"127.0.0.1:{port}\"\n[dns]\nenabled = false\n");
    site.write("postwarm.toml", &text);
    let (code, words) = ends(serve(&site, &["serve"]));
    assert_eq!(code, Some(UNAVAILABLE), "{words}");
    assert!(words.contains(&format!("health cannot listen on 127.0.0.1:{port}")) && words.contains("[health] listen"), "{words}");
    assert!(!words.contains("by itself"), "nothing else has failed: {words}");
}

#[test]
fn a_data_folder_that_cannot_be_made_or_written_ends_with_69_and_the_remedy() {
    let site = Site::with_organization(DEMO);
    site.write("file", "no folder");
    // Root may write everywhere, but in a file and in the kernel's own folders.
    for folder in [site.config().join("file"), site.config().join("file/below"), "/proc/self".into(), "/proc/postwarm".into()] {
        let mut command = site.command(&["serve"]);
        let (code, words) = ends({
            command.arg("--data").arg(&folder);
            command
        });
        assert_eq!(code, Some(UNAVAILABLE), "{folder:?}: {words}");
        let named = words.contains(&format!("the data folder {} cannot be used: ", folder.display()));
        assert!(named && words.contains("--data") && words.contains("may write to"), "{words}");
    }
    std::fs::create_dir_all(site.data().join("warmup.db")).unwrap();
    let (code, words) = ends(serve(&site, &["serve"]));
    assert_eq!(code, Some(UNAVAILABLE), "{words}");
    assert!(words.contains("cannot start with the data folder") && words.contains(&site.data().display().to_string()), "{words}");
}

#[test]
fn kafka_topic_with_one_name_ends_with_78_and_the_right_form() {
    let site = Site::with_organization(DEMO).env("KAFKA_BROKERS", "127.0.0.1:9").env("KAFKA_TOPIC", "events");
    let (code, words) = ends(serve(&site, &["serve"]));
    assert_eq!(code, Some(CONFIGURATION), "{words}");
    assert!(words.contains("KAFKA_TOPIC: one topic is named; ") && words.contains("emails,recipients"), "{words}");
}

/// A service whose start stands still until the database is let go.
fn standing_start(site: &Site) -> (std::process::Child, rusqlite::Connection) {
    std::fs::create_dir_all(site.data()).unwrap();
    let holder = rusqlite::Connection::open(site.data().join("warmup.db")).unwrap();
    holder.execute_batch("PRAGMA journal_mode = WAL; BEGIN IMMEDIATE").unwrap();
    let child = serve(site, &["serve"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    (child, holder)
}

/// Waits until it stands there: a signal before that ends it with nothing started.
async fn stands(child: &std::process::Child) {
    until("the start to come to the database", async || {
        let mut open = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().flatten();
        let found = open.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file.ends_with("warmup.db")));
        (found.then_some(()), found.into())
    })
    .await;
}

fn signal(child: &std::process::Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn sigterm_during_the_start_ends_with_0_once_the_start_is_over() {
    let site = Site::with_organization(DEMO);
    let (mut child, holder) = standing_start(&site);
    stands(&child).await;
    signal(&child, "-TERM");
    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_says_which() {
    for (name, code) in [("-TERM", 128 + 15), ("-INT", 128 + 2)] {
        let site = Site::with_organization(DEMO);
        let (mut child, _holder) = standing_start(&site);
        stands(&child).await;
        let ended = until("the end", async || {
            // The system puts signals together that nobody has taken yet.
            let ended = child.try_wait().unwrap();
            if ended.is_none() {
                signal(&child, name);
            }
            (ended, "it runs".into())
        })
        .await;
        assert_eq!(ended.code(), Some(code));
    }
}

#[tokio::test]
async fn a_second_sigterm_cuts_the_drain_short() {
    let stalls = Script { rules: vec![Rule::new(Step::EndOfData, Action::Stall)], ..Script::default() };
    let sink = Sink::start(stalls).await;
    let site = Site::with_organization(&format!(
        "[[smtp]]\nname = \"sink\"\nplugin = \"smtp\"\nsettings = {{ host = \"127.0.0.1\", port = {}, tls = \"none\" }}\n",
        sink.addr.port()
    ));
    site.append("[delivery]\ndrain_max = \"1h\"");
    let postwarm = site.serve();
    postwarm.register("somebody@x.example").await;
    let email = postwarm.send("Hello").await;
    postwarm.counts_when(email, |counts| counts["sending"] == 1).await;
    let pid = postwarm.pid().to_string();
    let term = || assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    term();
    until("the drain", async || {
        // The connections of before are closed as the signal is taken up.
        let ready = postwarm.client.get(format!("{}/readyz", postwarm.warmup)).send().await;
        let status = ready.map_or(0, |answer| answer.status().as_u16());
        ((status == 503).then_some(()), status.into())
    })
    .await;
    // One second of an hour.
    assert_eq!(postwarm.terminate(), Some(128 + 15));
    let postwarm = site.serve();
    postwarm.counts_when(email, |counts| counts["unknown"] == 1).await;
}

#[tokio::test]
async fn a_new_key_stands_alone_on_its_line_and_opens_the_running_service() {
    let site = Site::new();
    site.organization("acme", &format!("from_domains = [\"acme.example\"]\n{DEMO}"));
    let postwarm = site.serve();
    let users = format!("{}/users", postwarm.warmup);
    let made = site.command(&["key", "new", "acme", "--name", "test"]).output().unwrap();
    assert_eq!(made.status.code(), Some(0));
    let text = String::from_utf8(made.stdout).unwrap();
    let key = text.strip_suffix('\n').unwrap();
    assert!(!key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-'), "{text:?}");
    let ask = async |key: &str, is_wanted: fn(u16) -> bool| {
        until("the key to be taken up", async || {
            let status = postwarm.client.get(&users).bearer_auth(key).send().await.unwrap().status().as_u16();
            (is_wanted(status).then_some(()), status.into())
        })
        .await;
    };
    ask(key, |status| status == 200).await;
    let listed = site.command(&["key", "list", "acme"]).output().unwrap();
    assert!(!String::from_utf8(listed.stdout).unwrap().contains(key), "a list shows no whole key");
    assert_eq!(site.command(&["key", "revoke", "acme", key]).status().unwrap().code(), Some(0));
    // 429 where it was tried too often.
    ask(key, |status| status == 401 || status == 429).await;
    assert_eq!(site.command(&["key", "new", "nobody"]).output().unwrap().status.code(), Some(USAGE));
}

#[tokio::test]
async fn healthcheck_answers_0_for_a_service_that_lives_and_1_for_none() {
    let site = Site::with_organization(DEMO);
    let running = site.serve();
    let port = port_of(&running.warmup).to_owned();
    assert_eq!(postwarm(&["healthcheck", "--port", &port]).status.code(), Some(0));
    assert_eq!(postwarm(&["healthcheck", "--port", port_of(&running.health)]).status.code(), Some(0));
    let by_env = Command::new(env!("CARGO_BIN_EXE_postwarm")).arg("healthcheck").env("PORT", &port).status().unwrap();
    assert_eq!(by_env.code(), Some(0));
    assert_eq!(running.terminate(), Some(0));
    assert_eq!(postwarm(&["healthcheck", "--port", &port]).status.code(), Some(1));
}

#[tokio::test]
async fn port_overrides_the_file() {
    // Two ports beside each other that were free a moment ago.
    let port = loop {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && std::net::TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            break port;
        }
    };
    let site = Site::with_organization(DEMO).env("PORT", &port.to_string());
    let running = site.serve();
    assert_eq!(port_of(&running.warmup), port.to_string());
    assert_eq!(port_of(&running.health), (port + 1).to_string());
}

#[test]
fn kafka_brokers_override_the_embedded_log() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site::with_organization(DEMO).env("KAFKA_BROKERS", &nobody.to_string()).env("KAFKA_TOPIC", "mails,people");
    let mut child = serve(&site, &["serve"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let summary = first_lines(&mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(summary.contains(&format!("kafka at {nobody}")), "{summary}");
}

#[tokio::test]
async fn the_chosen_client_goes_first_and_a_wrong_choice_is_said() {
    let two = format!("{DEMO}[[smtp]]\nname = \"second\"\nplugin = \"sandbox\"\n");
    let site = Site::with_organization(&two).env("CHOOSEN_SMTP_CLIENT_TYPE", "second");
    let running = site.serve();
    running.register("a@x.example").await;
    let email = running.send("Hello").await;
    running.counts_when(email, |counts| counts["queued"] == 0 && counts["sending"] == 0).await;
    let (_, rows) = running.get(&format!("/emails/{email}/deliveries")).await;
    assert_eq!(rows[0]["client"], "second", "{rows}");
    drop(running);
    let site = Site::with_organization(&two).env("CHOOSEN_SMTP_CLIENT_TYPE", "PIGEON");
    let (code, words) = ends(serve(&site, &["serve"]));
    assert_eq!(code, Some(CONFIGURATION), "{words}");
    assert!(words.contains("CHOOSEN_SMTP_CLIENT_TYPE") && words.contains("PIGEON"), "{words}");
}

#[test]
fn the_summary_fits_one_screen_and_says_what_to_try() {
    let site = Site::with_organization(DEMO);
    let mut child = serve(&site, &["serve"]).stdout(Stdio::piped()).spawn().unwrap();
    let summary = first_lines(&mut child);
    let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(summary.lines().count() <= 24, "{summary}");
    for word in ["warmup", "health", "events", "data", "organization demo", "try:", "/register", "/send", "/mail_stats"] {
        assert!(summary.contains(word), "`{word}` is missing in:\n{summary}");
    }
}

/// The summary of a process, up to what to try.
fn first_lines(child: &mut std::process::Child) -> String {
    use std::io::{BufRead, BufReader};
    let mut text = String::new();
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
        let line = line.unwrap();
        text += &format!("{line}\n");
        if line.contains("/mail_stats") || line.contains("kafka at") {
            break;
        }
    }
    text
}
