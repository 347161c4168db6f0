//! How edits are taken up, and when not.

use super::{DEMO, Folder, PROVIDERS, Plugins, org};
use crate::config::keys::{self, KeyLine, new_key};
use crate::config::live::{Live, changed_organizations};
use crate::config::serving::Serving;
use crate::config::watch::Watcher;
use expect_test::expect;
use std::sync::Arc;

const ACME: &str = "from_domains = [\"acme.example\"]\ndevelopment = true\n[[smtp]]\nplugin = \"sandbox\"\n";

fn two() -> (Folder, Live) {
    let folder = Folder::demo(&[("postwarm.toml", "[shares.s]\nlimits = { per_day = 5 }\n"), ("organizations/acme.toml", ACME)]);
    let live = Live::start(folder.dir.path(), Serving::Both, Arc::new(|_| None), Arc::new(Plugins)).unwrap();
    (folder, live)
}

/// Time for a change to be seen and to hold still.
fn settle(live: &Live, from_ms: i64) {
    for step in 0..4 {
        live.tick(from_ms + 250 * step);
    }
}

#[test]
fn a_half_written_file_is_not_taken_up() {
    let folder = Folder::demo(&[]);
    let mut watcher = Watcher::new(folder.dir.path());
    folder.write("organizations/demo.toml", "from_domains = [\"demo.example\"]\n");
    assert_eq!(watcher.tick(0), None);
    assert_eq!(watcher.tick(250), None);
    folder.write("organizations/demo.toml", "from_domains = [\"demo.example\"]\ndevelopment = true\n# grown\n");
    assert_eq!(watcher.tick(500), None, "it has changed since, so the wait begins anew");
    assert_eq!(watcher.tick(750), None);
    assert_eq!(watcher.tick(1000).unwrap(), ["organizations/demo.toml"]);
    assert!(watcher.files().texts["organizations/demo.toml"].text.as_ref().unwrap().contains("grown"));
    assert_eq!(watcher.tick(1250), None);
}

#[test]
fn a_file_that_keeps_changing_holds_no_other_up() {
    let folder = Folder::demo(&[("organizations/acme.toml", ACME)]);
    let mut watcher = Watcher::new(folder.dir.path());
    folder.write("organizations/acme.toml", &format!("{ACME}# changed\n"));
    let mut taken = Vec::new();
    for step in 0..8 {
        folder.write("organizations/demo.toml", &format!("{DEMO}{}", "# more\n".repeat(step)));
        taken.extend(watcher.tick(250 * step as i64).unwrap_or_default());
    }
    assert_eq!(taken, ["organizations/acme.toml"]);
}

#[test]
fn the_log_says_which_organizations_came_were_changed_and_went() {
    let (folder, live) = two();
    let before = live.now();
    folder.write("organizations/acme.toml", &format!("{ACME}[limits]\nper_day = 5\n"));
    std::fs::remove_file(folder.dir.path().join("organizations/demo.toml")).unwrap();
    for n in 0..12 {
        folder.write(&format!("organizations/new{n:02}.toml"), &ACME.replace("acme", &format!("new{n:02}")));
    }
    settle(&live, 0);
    let named: Vec<String> = (0..10).map(|n| format!("`new{n:02}`")).collect();
    let came = format!("; organizations that came: {} and 2 more", named.join(", "));
    let wanted = format!("{came}; organizations that changed: `acme`; organizations that went: `demo`");
    assert_eq!(changed_organizations(&before.settings, &live.now().settings), wanted);
    assert_eq!(changed_organizations(&before.settings, &before.settings), "");
}

#[test]
fn a_broken_organization_keeps_what_ran_while_others_change() {
    let (folder, live) = two();
    let before = live.now();
    folder.write("organizations/acme.toml", "from_domains = 7\n");
    folder.write("organizations/demo.toml", &DEMO.replace("demo.example", "new.example"));
    folder.write("organizations/third.toml", DEMO);
    settle(&live, 0);
    let after = live.now();
    assert!(Arc::ptr_eq(&before.settings.organizations[&org("acme")], &after.settings.organizations[&org("acme")]));
    assert_eq!(after.settings.organizations[&org("demo")].from_domains, ["new.example"]);
    assert!(after.settings.organizations.contains_key(&org("third")));
    assert!(folder.shown(&after.status.problems).starts_with("organizations/acme.toml:1:16: `from_domains` is a number"));

    folder.write("organizations/acme.toml", ACME);
    settle(&live, 5_000);
    assert!(live.now().status.problems.is_empty());
}

#[test]
fn a_broken_shared_file_keeps_everything() {
    for file in ["postwarm.toml", "providers.toml"] {
        let (folder, live) = two();
        let before = live.now();
        folder.write(file, "= broken");
        folder.write("organizations/third.toml", DEMO);
        settle(&live, 0);
        let after = live.now();
        assert!(Arc::ptr_eq(&before.settings.process, &after.settings.process));
        assert_eq!(after.settings.organizations.len(), 2);
        assert!(folder.shown(&after.status.problems).starts_with(&format!("{file}:1:1: ")), "{:?}", after.status.problems);
    }
}

#[test]
fn an_organization_whose_file_goes_is_gone() {
    let (folder, live) = two();
    std::fs::remove_file(folder.path("organizations/acme.toml")).unwrap();
    settle(&live, 0);
    assert_eq!(live.now().settings.organizations.keys().cloned().collect::<Vec<_>>(), [org("demo")]);
}

#[test]
fn a_link_to_nothing_is_no_absent_file() {
    let folder = Folder::demo(&[]);
    std::os::unix::fs::symlink("nowhere", folder.path("organizations/lnk.toml")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path("postwarm.toml")).unwrap();
    expect![[r#"
        organizations/lnk.toml: is a link to nothing; mend the link, or remove it
        postwarm.toml: is a link to nothing; mend the link, or remove it
    "#]]
    .assert_eq(&folder.shown(&folder.load().problems));
}

#[test]
fn a_link_to_nothing_keeps_what_ran_until_it_goes_or_leads_somewhere() {
    let (folder, live) = two();
    let path = folder.path("organizations/acme.toml");
    let relink = |to: &str| {
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(to, &path).unwrap();
    };
    let runs = || live.now().settings.organizations.contains_key(&org("acme"));
    relink("nowhere");
    settle(&live, 0);
    assert!(runs());
    assert!(folder.shown(&live.now().status.problems).contains("is a link to nothing"));
    relink("demo.toml");
    settle(&live, 5_000);
    assert!(runs() && live.now().status.problems.is_empty());
    relink("nowhere");
    settle(&live, 10_000);
    std::fs::remove_file(&path).unwrap();
    settle(&live, 15_000);
    assert!(!runs() && live.now().status.problems.is_empty());
}

#[test]
fn an_unchanged_organization_keeps_its_pointer_when_a_provider_changes() {
    let (folder, live) = two();
    let before = live.now();
    folder.write("providers.toml", &PROVIDERS.replace("per_day = 500", "per_day = 600"));
    settle(&live, 0);
    let after = live.now();
    assert!(Arc::ptr_eq(&before.settings.organizations[&org("demo")], &after.settings.organizations[&org("demo")]));
    assert_eq!(after.settings.providers.presets["bigmail"].limits[0].messages, 600);
}

#[test]
fn a_share_that_is_still_used_does_not_fall_away() {
    let (folder, live) = two();
    folder.write("organizations/acme.toml", &format!("{ACME}share = \"s\"\n"));
    settle(&live, 0);
    folder.write("postwarm.toml", "");
    settle(&live, 5_000);
    let now = live.now();
    assert_eq!(now.settings.process.shares["s"][0].messages, 5);
    assert!(folder.shown(&now.status.problems).contains("there is no share `s`"));
}

#[test]
fn what_needs_a_restart_is_said() {
    let (folder, live) = two();
    folder.write("postwarm.toml", "[warmup]\nlisten = \"127.0.0.1:9999\"\n");
    settle(&live, 0);
    let expected = "postwarm.toml:1:1: the change of [warmup] listen has not taken effect; restart the service\n";
    assert_eq!(folder.shown(&live.now().status.warnings), expected);
    assert_eq!(folder.shown(&live.now().status.restart), expected);
    // These are taken up, and so nothing is said.
    folder.write("postwarm.toml", "[dns]\nenabled = false\n[health]\nwatch_for = \"2d\"\n");
    settle(&live, 5_000);
    assert_eq!(folder.shown(&live.now().status.warnings), "");
    assert!(live.now().status.restart.is_empty());
}

#[test]
fn a_key_opens_and_closes_its_organization_while_running() {
    let (folder, live) = two();
    let (key, hash) = new_key(&[7; 32]);
    let path = keys::path(folder.dir.path(), &org("acme"));
    keys::write(&path, &keys::with_line("", &KeyLine::new(&key, hash, 0, "laptop"))).unwrap();
    assert_eq!(live.now().keys.organization(&key), None);
    settle(&live, 0);
    assert_eq!(live.now().keys.organization(&key), Some(org("acme")));
    assert_eq!(live.now().keys.organization(&key.replace('B', "C")), None);
    keys::write(&path, "").unwrap();
    settle(&live, 5_000);
    assert_eq!(live.now().keys.organization(&key), None);
}

/// Ed25519 seeds.
const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const OTHER_KEY: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const SECRETS: &str = "from_domains = [\"acme.example\"]\ndevelopment = true\n[[smtp]]\nname = \"a\"\nplugin = \"relay\"\n\
    settings = { host = \"h\", user = \"u\", password = { file = \"acme.password\" } }\n[[smtp]]\nname = \"b\"\nplugin = \"sandbox\"\n\
    [[dkim]]\ndomain = \"acme.example\"\nselector = \"s1\"\nalgorithm = \"ed25519-sha256\"\n\
    key = { file = \"acme.pem\" }\n";

#[test]
fn an_edit_of_a_secret_file_alone_makes_what_it_belongs_to_differ() {
    let folder = Folder::demo(&[("organizations/acme.password", "old\n"), ("organizations/acme.pem", KEY)]);
    folder.write("organizations/acme.toml", SECRETS);
    let live = Live::start(folder.dir.path(), Serving::Both, Arc::new(|_| None), Arc::new(Plugins)).unwrap();
    let acme = || live.now().settings.organizations[&org("acme")].clone();
    let (first, demo) = (acme(), live.now().settings.organizations[&org("demo")].clone());
    settle(&live, 0);
    assert_eq!(live.now().status.reloads, 0, "nothing was edited");

    folder.write("organizations/acme.password", "new\n");
    settle(&live, 1_000);
    let second = acme();
    assert_ne!(first.smtp[0], second.smtp[0], "its client is made anew");
    assert_eq!((&first.smtp[1], &first.dkim), (&second.smtp[1], &second.dkim));
    assert!(Arc::ptr_eq(&demo, &live.now().settings.organizations[&org("demo")]));

    folder.write("organizations/acme.pem", OTHER_KEY);
    settle(&live, 2_000);
    assert_ne!(second.dkim, acme().dkim);
    folder.write("organizations/acme.pem", OTHER_KEY);
    settle(&live, 3_000);
    assert_eq!(live.now().status.reloads, 3);
    assert!(!format!("{:?}", acme()).contains(OTHER_KEY));
}

#[test]
fn a_secret_file_that_goes_is_a_problem_and_one_that_comes_mends_it() {
    let folder = Folder::demo(&[("organizations/acme.password", "old\n"), ("organizations/acme.pem", KEY)]);
    folder.write("organizations/acme.toml", SECRETS);
    let live = Live::start(folder.dir.path(), Serving::Both, Arc::new(|_| None), Arc::new(Plugins)).unwrap();
    let before = live.now().settings.organizations[&org("acme")].clone();
    std::fs::remove_file(folder.path("organizations/acme.password")).unwrap();
    settle(&live, 0);
    let now = live.now();
    assert!(folder.shown(&now.status.problems).starts_with("organizations/acme.toml:6:49: `password`: cannot read"), "{:?}", now.status);
    assert!(Arc::ptr_eq(&before, &now.settings.organizations[&org("acme")]), "what ran goes on");
    folder.write("organizations/acme.password", "new\n");
    settle(&live, 1_000);
    assert!(live.now().status.problems.is_empty());
    assert_ne!(before, live.now().settings.organizations[&org("acme")]);
}

#[test]
fn a_half_written_secret_file_is_not_taken_up() {
    let folder = Folder::demo(&[("organizations/acme.password", "old\n"), ("organizations/acme.pem", KEY)]);
    folder.write("organizations/acme.toml", SECRETS);
    let live = Live::start(folder.dir.path(), Serving::Both, Arc::new(|_| None), Arc::new(Plugins)).unwrap();
    for step in 0..8 {
        folder.write("organizations/acme.password", &"x".repeat(step + 1));
        live.tick(250 * step as i64);
    }
    assert_eq!(live.now().status.reloads, 0);
    settle(&live, 2_000);
    assert_eq!(live.now().status.reloads, 1);
}
