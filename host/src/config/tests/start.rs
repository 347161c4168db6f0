//! What a process starts with where a file is broken.

use super::{DEMO, Folder, Plugins, org};
use crate::config::keys::{self, KeyLine, new_key};
use crate::config::live::Live;
use crate::config::problem::Problem;
use crate::config::serving::Serving;
use std::sync::Arc;

const ACME: &str = "from_domains = [\"acme.example\"]\npublic_url = \"https://acme.example\"\n[[smtp]]\nplugin = \"sandbox\"\n";

fn start(folder: &Folder) -> Result<Live, Vec<Problem>> {
    let env = folder.env.clone();
    Live::start(folder.dir.path(), Serving::Both, Arc::new(move |name| env.get(name).cloned()), Arc::new(Plugins))
}

/// What keeps a start from working.
fn refused(folder: &Folder) -> String {
    folder.shown(&start(folder).err().expect("it starts"))
}

fn mend(live: &Live) {
    (0..4).for_each(|step| drop(live.tick(250 * step)));
}

#[test]
fn one_broken_organization_stops_no_other_and_comes_up_once_it_is_mended() {
    for (broken, place) in [
        ("from_domains = 7\n", "organizations/acme.toml:1:16: `from_domains` is a number"),
        ("from_domains = [\"acme.example\"\n", "organizations/acme.toml:1:31: no valid TOML"),
        (&ACME.replace("sandbox", "not-there"), "organizations/acme.toml:4:10: there is no SMTP client plugin `not-there`"),
        (
            &format!("{ACME}[[smtp]]\nplugin = \"relay\"\nsettings = {{ host = \"h\", password = {{ env = \"UNSET\" }} }}\n"),
            "organizations/acme.toml:7:37: `password`: environment variable `UNSET` is not set",
        ),
        (
            &format!("{ACME}[[smtp]]\nplugin = \"relay\"\nsettings = {{ host = \"h\", password = {{ file = \"none\" }} }}\n"),
            "organizations/acme.toml:7:37: `password`: cannot read",
        ),
    ] {
        let folder = Folder::demo(&[("organizations/acme.toml", broken)]);
        let live = start(&folder).unwrap_or_else(|problems| panic!("{problems:?}"));
        let now = live.now();
        assert_eq!(now.settings.organizations.keys().cloned().collect::<Vec<_>>(), [org("demo")]);
        let shown = folder.shown(&now.status.problems);
        assert!(shown.starts_with(place) && shown.lines().count() == 1, "{shown}");
        folder.write("organizations/acme.toml", ACME);
        mend(&live);
        assert!(live.now().settings.organizations.contains_key(&org("acme")));
        assert!(live.now().status.problems.is_empty());
    }
}

#[test]
fn where_no_organization_is_left_or_a_file_of_all_is_broken_nothing_starts() {
    let only = |text| Folder::new(&[("organizations/acme.toml", text)]);
    assert!(refused(&only("from_domains = 7\n")).starts_with("organizations/acme.toml:1:16: "));
    let misnamed = Folder::new(&[("organizations/Acme Corp.toml", DEMO)]);
    assert!(refused(&misnamed).starts_with("organizations/Acme Corp.toml:1:1: "));
    for file in ["postwarm.toml", "providers.toml"] {
        assert!(refused(&Folder::demo(&[(file, "= broken")])).starts_with(&format!("{file}:1:1: ")));
    }
    let folder = Folder::new(&[]);
    std::fs::remove_dir(folder.path("organizations")).unwrap();
    folder.write("organizations", "no folder");
    assert!(refused(&folder).starts_with("organizations: cannot be read: "), "it may hold organizations");
    let folder = Folder::demo(&[]).set("CHOOSEN_SMTP_CLIENT_TYPE", "PIGEON");
    assert!(refused(&folder).starts_with("CHOOSEN_SMTP_CLIENT_TYPE: `PIGEON`"), "the environment is of the process");
}

#[test]
fn an_organization_that_cannot_start_leaves_nobody_else_its_place_as_the_only_one() {
    let folder = Folder::demo(&[("organizations/acme.toml", "from_domains = 7\n")]);
    let live = start(&folder).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(live.now().settings.without_key().is_none(), "who sends no key may mean acme");
    folder.write("organizations/acme.toml", "from_domains = 8\n");
    mend(&live);
    assert!(live.now().settings.without_key().is_none());
    std::fs::remove_file(folder.path("organizations/acme.toml")).unwrap();
    (4..8).for_each(|step| drop(live.tick(250 * step)));
    assert_eq!(live.now().settings.without_key().unwrap().name, org("demo"));
}

#[test]
fn keys_stay_known_while_their_organization_cannot_be_used() {
    let (key, hash) = new_key(&[7; 32]);
    let folder = Folder::demo(&[("organizations/acme.toml", "from_domains = 7\n")]);
    let path = keys::path(folder.dir.path(), &org("acme"));
    keys::write(&path, &keys::with_line("", &KeyLine::new(&key, hash, 0, "laptop"))).unwrap();
    let live = start(&folder).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(live.now().keys.organization(&key), Some(org("acme")));
    folder.write("organizations/acme.toml", "from_domains = 8\n");
    mend(&live);
    assert_eq!(live.now().keys.organization(&key), Some(org("acme")));
}

#[test]
fn a_broken_line_of_keys_keeps_no_organization_from_starting() {
    let folder = Folder::demo(&[("organizations/demo.keys", "nonsense\n")]);
    let live = start(&folder).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(live.now().settings.organizations.contains_key(&org("demo")));
    assert!(folder.shown(&live.now().status.problems).starts_with("organizations/demo.keys:1:1: "));
}

#[test]
fn keys_that_cannot_be_read_are_not_said_to_be_absent() {
    let folder = Folder::demo(&[("organizations/acme.toml", ACME)]);
    std::fs::create_dir(folder.path("organizations/acme.keys")).unwrap();
    let live = start(&folder).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(folder.shown(&live.now().status.problems).starts_with("organizations/acme.keys: is no file"));
    assert_eq!(folder.shown(&live.now().status.warnings), "");
}

#[test]
fn an_organization_without_keys_is_not_taken_up_beyond_loopback_before_the_restart() {
    let beyond = "[warmup]\nlisten = \"0.0.0.0:8080\"\n";
    let folder = Folder::demo(&[("postwarm.toml", beyond), ("organizations/acme.toml", ACME)]);
    let live = start(&folder).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(!live.now().settings.organizations.contains_key(&org("demo")));
    folder.write("postwarm.toml", "");
    mend(&live);
    let now = live.now();
    assert!(!now.settings.organizations.contains_key(&org("demo")), "the socket is still where strangers reach it");
    let shown = folder.shown(&now.status.problems);
    assert!(shown.starts_with("organizations/demo.toml:1:1: development = true") && shown.contains("restart"), "{shown}");
}
