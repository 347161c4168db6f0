//! What becomes of files in the plugins directory.

use super::support::{Place, c_example, compile, instance, message, rust_example};
use crate::registry::elf::inspect;
use crate::registry::{PluginStatus, Registry, SETTLE, State};
use postwarm_plugin_api::{Kind, Outcome};
use serde_json::json;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant, SystemTime};

const PROBE: &str = include_str!("probe.c");
const NOTHING_DEFINED: &[&str] = &[];

fn probe(defines: &[&str]) -> Vec<u8> {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    std::fs::read(compile(folder.path(), "probe", PROBE, defines)).expect("it was built")
}

/// Drops octets as `broken.so` and returns what the list says is wrong with them.
fn rejection(octets: &[u8]) -> String {
    let place = Place::new();
    place.drop_octets("broken.so", octets);
    place.settle();
    let status = place.registry.list().into_iter().find(|status| status.file.is_some()).expect("it is listed");
    assert_eq!(status.state, State::Rejected, "{status:?}");
    assert!(place.registry.ids(Kind::SmtpClient).iter().all(|id| id != "probe"));
    status.problem.expect("a rejection has words")
}

#[test]
fn a_file_is_read_once_it_has_been_still_for_300_ms() {
    let place = Place::new();
    let known = || place.registry.ids(Kind::SmtpClient).contains(&"probe".to_owned());
    let octets = probe(NOTHING_DEFINED);
    place.drop_octets("probe.so", &octets[..octets.len() / 2]);
    place.registry.rescan(place.pass(Duration::ZERO));
    place.registry.rescan(place.pass(Duration::from_millis(299)));
    place.drop_octets("probe.so", &octets);
    place.registry.rescan(place.pass(Duration::from_millis(200)));
    assert!(place.registry.list().iter().any(|status| status.state == State::Settling && status.problem.is_none()));
    place.registry.rescan(place.pass(Duration::from_millis(299)));
    assert!(!known());
    place.registry.rescan(place.pass(Duration::from_millis(1)));
    assert!(known());
    std::fs::remove_file(place.plugins().join("probe.so")).expect("ours");
    place.registry.rescan(place.pass(Duration::ZERO));
    assert!(!known());
}

#[test]
fn a_file_that_lay_there_before_the_start_is_taken_at_once() {
    let place = Place::new();
    place.drop_octets("probe.so", &probe(NOTHING_DEFINED));
    place.registry.start(Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33));
    assert!(place.registry.resolve_smtp("probe").is_ok());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "file ages are compared with the file system's clock")]
fn a_file_that_was_copied_a_moment_before_the_start_is_taken_once_it_has_settled() {
    let place = Place::new();
    assert_eq!(place.registry.settles_in(SystemTime::now()), Duration::ZERO);
    place.drop_octets("probe.so", &probe(NOTHING_DEFINED));
    let now = SystemTime::now();
    let wait = place.registry.settles_in(now);
    assert!(wait > Duration::ZERO && wait <= SETTLE, "{wait:?}");
    place.registry.start(Instant::now(), now + wait);
    assert!(place.registry.resolve_smtp("probe").is_ok());
}

#[test]
fn dropping_a_plugin_runs_none_of_its_code_until_it_is_asked_for() {
    let place = Place::new();
    let trace = place.folder.path().join("it-ran");
    let define = format!("CONSTRUCTOR_WRITES=\"{}\"", trace.display());
    place.drop_c("probe", PROBE, &[&define]);
    place.settle();
    place.registry.list();
    assert!(place.registry.describe(Kind::SmtpClient, "probe").is_some());
    assert!(!trace.exists());
    place.registry.resolve_smtp("probe").expect("it loads");
    assert!(trace.exists());
}

#[test]
fn every_cut_off_and_every_zero_tailed_library_is_rejected_in_words() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let libraries = [c_example(folder.path()), rust_example("postwarm-plugin-example-smtp-rust")];
    for library in libraries {
        let whole = std::fs::read(library).expect("it was built");
        assert_eq!(inspect(whole.as_slice()).expect("it is whole").len(), 2);
        let last = whole.iter().rposition(|octet| *octet != 0).expect("not all are zero");
        let cuts = (0..20).map(|cut| whole.len() * cut / 20).chain([whole.len() - 1, whole.len() - 64, 63, 64]);
        for cut in cuts {
            let words = inspect(&whole[..cut]).expect_err("it is cut off");
            assert!(words.contains("cut off") || words.contains("empty") || words.contains("no ELF"), "{cut}: {words}");
        }
        for zeros in [1, 64, 256, 1024, 4096, whole.len() / 4, whole.len() / 2, whole.len() - 64] {
            // The end of a file may be zeros anyhow: count from the last octet that is none.
            let mut zeroed = whole.clone();
            let start = last.saturating_sub(zeros.max(64));
            zeroed[start..].fill(0);
            inspect(zeroed.as_slice()).expect_err("its end is gone");
        }
    }
}

#[test]
fn no_octet_of_a_header_can_make_the_inspection_panic() {
    let whole = probe(NOTHING_DEFINED);
    let sections = u64::from_le_bytes(whole[40..48].try_into().expect("eight octets")) as usize;
    for at in (0..1024).chain(sections..whole.len()) {
        for octet in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] = octet;
            // Whether it is accepted does not matter here, only that it ends.
            drop(inspect(changed.as_slice()));
        }
    }
}

#[test]
fn a_cut_off_file_is_rejected_and_the_whole_one_behind_it_taken() {
    let whole = probe(NOTHING_DEFINED);
    assert!(rejection(&whole[..whole.len() / 2]).contains("cut off"));
    let place = Place::new();
    place.drop_octets("probe.so", &whole[..whole.len() / 2]);
    place.settle();
    place.drop_octets("probe.so", &whole);
    place.settle();
    assert_eq!(place.problem("probe.so"), None);
    assert!(place.registry.resolve_smtp("probe").is_ok());
}

#[test]
fn what_is_no_plugin_is_rejected_with_the_reason() {
    assert!(rejection(b"").contains("is empty"));
    assert!(rejection(b"#!/bin/sh\necho this is text\n").contains("no ELF library"));
    assert!(rejection(&[b'x'; 4096]).contains("no ELF library"));
    let mut octets = probe(NOTHING_DEFINED);
    octets[18..20].copy_from_slice(&8_u16.to_le_bytes());
    assert!(rejection(&octets).contains("built for ELF machine 8"));
    octets[4] = 1;
    assert!(rejection(&octets).contains("64-bit"));
    let mut program = probe(NOTHING_DEFINED);
    program[16] = 2;
    assert!(rejection(&program).contains("no shared library"));
    assert!(rejection(&probe(&["NO_NOTE"])).contains("no Postwarm plugin"));
    assert!(rejection(&probe(&["TWO_NOTES"])).contains("two plugins of one kind"));
    assert!(rejection(&probe(&["ID=\"No_Good\""])).contains("its id `No_Good`"));
    assert!(rejection(&probe(&["NOTE_KIND=\"postwarm.fax/0\""])).contains("`postwarm.fax/0`"));
    assert!(rejection(&probe(&["SCHEMA=\"[1\""])).contains("no JSON object"));
}

#[test]
fn a_plugin_of_another_abi_is_told_what_to_do() {
    let words = rejection(&probe(&["NOTE_ABI=7"]));
    assert!(words.starts_with("it is built for ABI 7, this host speaks 0: rebuild it"), "{words}");
}

#[test]
fn files_that_others_could_have_written_are_rejected() {
    let place = Place::new();
    place.drop_octets("probe.so", &probe(NOTHING_DEFINED));
    let file = place.plugins().join("probe.so");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o775)).expect("ours");
    std::os::unix::fs::symlink(&file, place.plugins().join("link.so")).expect("writable");
    std::fs::create_dir(place.plugins().join("folder.so")).expect("writable");
    let large = std::fs::File::create(place.plugins().join("large.so")).expect("writable");
    large.set_len((64 << 20) + 1).expect("sparse");
    place.settle();
    assert!(place.problem("probe.so").expect("rejected").contains("chmod go-w"));
    assert!(place.problem("link.so").expect("rejected").contains("symbolic link"));
    assert!(place.problem("folder.so").expect("rejected").contains("no regular file"));
    assert!(place.problem("large.so").expect("rejected").contains("larger than 64 MiB"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("ours");
    place.settle();
    assert_eq!(place.problem("probe.so"), None);
}

#[test]
fn a_directory_that_others_can_write_makes_nothing_available() {
    let place = Place::new();
    place.drop_octets("probe.so", &probe(NOTHING_DEFINED));
    std::fs::set_permissions(place.plugins(), std::fs::Permissions::from_mode(0o777)).expect("ours");
    place.settle();
    assert!(place.problem("probe.so").expect("rejected").starts_with("the directory "));
    assert!(place.registry.resolve_smtp("probe").is_err());
}

#[test]
fn the_copy_is_named_by_its_content_in_a_folder_of_ours_alone() {
    let place = Place::new();
    place.drop_octets("probe.so", &probe(NOTHING_DEFINED));
    place.drop_octets("broken.so", b"text");
    place.settle();
    let sha256 = place.registry.list().into_iter().find_map(|status| status.sha256).expect("it was taken");
    let private = place.folder.path().join("private");
    assert_eq!(std::fs::metadata(&private).expect("it was made").mode() & 0o777, 0o700);
    let names: Vec<_> = std::fs::read_dir(private).expect("ours").map(|entry| entry.expect("readable").file_name()).collect();
    assert_eq!(names, [format!("{sha256}.so").as_str()]);
}

#[test]
fn of_two_files_with_one_id_the_first_is_used_until_it_goes() {
    let place = Place::new();
    place.drop_octets("zebra.so", &probe(&["VERSION=\"first\""]));
    place.settle();
    place.drop_octets("ant.so", &probe(&["VERSION=\"second\""]));
    place.settle();
    let version = || place.registry.describe(Kind::SmtpClient, "probe").expect("one of them is there").version;
    assert_eq!(version(), "first");
    assert!(place.problem("ant.so").expect("rejected").contains("already that of zebra.so"));
    std::fs::remove_file(place.plugins().join("zebra.so")).expect("ours");
    place.settle();
    assert_eq!(version(), "second");
    assert_eq!(place.problem("ant.so"), None);
}

#[tokio::test]
async fn a_replaced_file_serves_new_instances_while_the_old_ones_go_on() {
    let place = Place::new();
    let soon = Instant::now() + Duration::from_secs(20);
    let make = || place.registry.resolve_smtp("probe").expect("it loads").create(instance(json!({}))).expect("it makes one");
    place.drop_octets("probe.so", &probe(&["VERSION=\"old\""]));
    place.settle();
    let old = make();
    // Written over in place, which would kill a process that had loaded the file itself.
    std::fs::write(place.plugins().join("probe.so"), probe(&["VERSION=\"new\""])).expect("ours");
    place.settle();
    let new = make();
    std::fs::write(place.plugins().join("probe.so"), b"broken").expect("ours");
    place.settle();
    assert!(place.problem("probe.so").expect("its newest content is bad").contains("no ELF"));
    let newest = make();
    for (client, version) in [(old, "old"), (new, "new"), (newest, "new")] {
        let outcome = client.send(message("to@example.com"), soon).await;
        assert!(matches!(&outcome, Outcome::Accepted(reply) if reply.text == version), "{outcome:?}");
    }
}

/// The registry of the next process over the same folders, and what its list says of `probe.so`.
fn next_start(place: &Place) -> (Registry, PluginStatus) {
    let registry = Registry::new(place.plugins(), place.folder.path().join("private"));
    registry.start(Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33));
    let status = registry.list().into_iter().find(|status| status.file.as_deref() == Some("probe.so")).expect("the file is listed");
    (registry, status)
}

#[test]
fn a_start_that_finds_a_file_broken_falls_back_to_what_was_last_loaded_from_it() {
    let place = Place::new();
    for version in ["old", "new"] {
        place.drop_octets("probe.so", &probe(&[&format!("VERSION=\"{version}\"")]));
        place.settle();
        place.registry.resolve_smtp("probe").expect("it loads");
    }
    place.drop_octets("probe.so", &probe(&["VERSION=\"newest\""]));
    place.settle();
    place.drop_octets("probe.so", &probe(NOTHING_DEFINED)[..5000]);
    let (registry, status) = next_start(&place);
    assert_eq!((status.state, status.version.as_deref()), (State::Available, Some("new")), "the newest was never loaded");
    assert!(status.problem.expect("its newest content is bad").contains("cut off"));
    registry.resolve_smtp("probe").expect("it loads");
    place.drop_octets("probe.so", &probe(&["VERSION=\"whole\""]));
    let (_, status) = next_start(&place);
    assert_eq!((status.version.as_deref(), status.problem), (Some("whole"), None));
}

#[test]
fn what_was_never_loaded_or_has_changed_since_is_not_fallen_back_to() {
    let place = Place::new();
    place.drop_octets("probe.so", &probe(NOTHING_DEFINED));
    place.settle();
    let private = place.folder.path().join("private");
    let copy = private.join(format!("{}.so", place.registry.list().into_iter().find_map(|status| status.sha256).expect("taken")));
    place.drop_octets("probe.so", b"broken");
    let refused = |why: &str| {
        let (registry, status) = next_start(&place);
        assert_eq!(status.state, State::Rejected, "{why}");
        assert!(registry.resolve_smtp("probe").is_err(), "{why}");
    };
    refused("it never ran");
    place.registry.resolve_smtp("probe").expect("it loads");
    assert_eq!(next_start(&place).1.state, State::Available);

    let record = private.join("probe.so.last");
    let sha256 = std::fs::read_to_string(&record).expect("it was recorded");
    let outside = place.folder.path().join("outside.so");
    std::fs::copy(&copy, &outside).expect("readable");
    for text in ["", "../outside\n", &sha256[..63], &sha256.replace(&sha256[..8], "00000000")] {
        std::fs::write(&record, text).expect("ours");
        refused(text);
    }
    std::fs::write(&record, &sha256).expect("ours");
    let octets = std::fs::read(&copy).expect("ours");
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o777)).expect("ours");
    refused("others could have written it");
    std::fs::remove_file(&copy).expect("ours");
    std::fs::write(&copy, [&octets[..], b"x"].concat()).expect("ours");
    refused("it is another content");
    std::os::unix::fs::symlink(&outside, copy.with_extension("link")).expect("ours");
    std::fs::rename(copy.with_extension("link"), &copy).expect("ours");
    refused("it is a link");
}

#[test]
fn an_id_that_nobody_has_is_refused_in_words() {
    let words = Place::new().registry.resolve_smtp("nobody").err().expect("there is none");
    assert_eq!(words, "there is no plugin `nobody` of this kind");
}
