//! Rules of the sources that no compiler checks. `docs/ARCHITECTURE.md` holds the import table that is read here.

mod functions;

use functions::{Function, functions};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Files longer than this need a reason.
const LINES_MAX: usize = 400;
/// The files that read better in one piece, each with the reason.
const LONG_FILES: [(&str, &str); 1] = [(
    "host/src/warmup/store_contract.rs",
    "the promises of the store read from top to bottom; what needs an order of its own stands beside it",
)];
/// Functions longer than this need a reason.
const FUNCTION_LINES_MAX: usize = 70;
/// The functions that read better in one piece, each with the reason.
const LONG_FUNCTIONS: [(&str, &str, &str); 2] = [
    ("host/src/config/tests/load.rs", "an_organization_gets_its_presets_limits_and_names", "one file and all that is read of it"),
    ("plugins/kit/src/tests/matrix.rs", "every_fault_in_every_phase_has_its_outcome", "one table"),
];
/// Functions with more parameters than this need a reason. Those of [`UNCOUNTED`] are not counted.
const PARAMETERS_MAX: usize = 5;
/// What an adapter's functions work on is to them what `self` is to a method.
const UNCOUNTED: [&str; 2] = ["connection", "context"];
/// The functions whose parameters say more apart than in a struct, each with the reason.
const MANY_PARAMETERS: [(&str, &str, &str); 1] =
    [("host/src/warmup/limits/gate.rs", "usage", "makes one row of what is at hand, each field once")];
/// Where JSON may be read or written: the public forms, and what the contract of plugins has as JSON (their settings).
const JSON_ALLOWED: [&str; 8] = [
    "host/src/bus/wire.rs",
    "host/src/http/",
    "host/src/warmup/api/",
    "host/src/health/api/",
    "host/src/cli/",
    "host/src/config/",
    "host/src/registry/note.rs",
    "host/src/app/catalogue.rs",
];
/// The modules of which `docs/ARCHITECTURE.md` has every file in a table; who adds one says there what it decides or does.
const MODULES_BY_FILE: [&str; 2] = ["warmup", "health"];
/// The only file that names status codes, apart from tests.
const STATUS_CODES: &str = "host/src/http/error.rs";
/// What clippy refuses for us, in every crate; the rules that take more than reading lines.
const CLIPPY_LINTS: [&str; 4] = ["unwrap_used", "dbg_macro", "todo", "allow_attributes"];
/// Where `unsafe` may stand: folders end in `/`, others are the start of a file's path.
const UNSAFE_ALLOWED: [&str; 7] = [
    "host/src/registry/",
    "host/src/cli/scheduling.rs",
    "host/src/clock.rs",
    "host/src/warmup/marks/map.rs",
    "host/tests/proof/volume.rs",
    "plugin-api/src/abi",
    "plugin-api/src/export",
];
/// Names that only `plugins/` and `config/` know, besides those of the plugins themselves.
const PROVIDER_NAMES: [&str; 9] = ["gmail", "googlemail", "yahoo", "aol", "outlook", "hotmail", "icloud", "mailpit", "sandbox"];
/// Plugin folders whose names are words of the domain.
const PLUGINS_WITHOUT_PROVIDER: [&str; 5] = ["kit", "testkit", "builtin", "examples", "smtp"];

pub struct Source {
    /// Relative to the repository, with `/`.
    pub path: String,
    pub text: String,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the host lies in the repository").to_owned()
}

pub fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the repository").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() && entry.file_name().is_some_and(|name| name != "target") {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let path = entry.strip_prefix(root()).expect("it lies in the repository").to_string_lossy().replace('\\', "/");
                found.push(Source { path, text: std::fs::read_to_string(&entry).expect("UTF-8") });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The lines of a file with their numbers, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| {
        let end = line.match_indices("//").map(|(at, _)| at).find(|at| !line[..*at].ends_with(':')).unwrap_or(line.len());
        (index + 1, &line[..end])
    })
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Where a word stands in a line, whole, and what follows it.
fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    line.match_indices(word).filter_map(move |(at, _)| {
        let rest = &line[at + word.len()..];
        (!line[..at].ends_with(is_word) && !rest.starts_with(is_word)).then_some(rest)
    })
}

/// The import table: what each module may import.
fn import_table() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md");
    let (_, table) = text.split_once("| module | owns | may import |").expect("the import table of docs/ARCHITECTURE.md");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let ticked = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let name = ticked(cells[0]).remove(0);
        (name.trim_end_matches('/').trim_end_matches(".rs").to_owned(), ticked(cells[2]).into_iter().collect())
    })
    .collect()
}

/// The files that the tables below "Inside `module/`" name, as often as they do, relative to the repository.
fn files_of_tables(module: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md");
    let (_, rest) = text.split_once(&format!("### Inside `{module}/`")).expect("the heading of the module's tables");
    let rows = rest.lines().take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with('|'));
    let names = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).filter(|name| name.ends_with(".rs"));
    names.map(|name| format!("host/src/{module}/{name}")).collect()
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// Reports the functions, each with its file, line, name and what is wrong with it, that have no reason in the list, and
/// the reasons that no function needs.
fn report_unlisted(found: Vec<(String, usize, String, String)>, reasons: &[(&str, &str, &str)]) {
    let needless = reasons.iter().filter(|(path, name, _)| !found.iter().any(|(p, _, n, _)| p == path && n == name));
    let mut problems: Vec<String> =
        needless.map(|(path, name, _)| format!("{path}: `{name}` needs no reason; take it off the list")).collect();
    let unlisted = found.iter().filter(|(path, _, name, _)| !reasons.iter().any(|(p, n, _)| p == path && n == name));
    problems.extend(
        unlisted.map(|(path, number, name, wrong)| format!("{path}:{number}: `{name}` {wrong}; split it, or list it with the reason")),
    );
    report(&problems);
}

#[test]
fn every_import_between_modules_is_in_the_table_of_the_architecture() {
    let table = import_table();
    let mut problems = Vec::new();
    for source in sources("host/src") {
        let inside = source.path.trim_start_matches("host/src/");
        let module = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        if matches!(inside, "lib.rs" | "main.rs") {
            continue;
        }
        let Some(allowed) = table.get(module) else {
            problems.push(format!("{}: module `{module}` has no row in docs/ARCHITECTURE.md", source.path));
            continue;
        };
        for (number, line) in code(&source.text) {
            for rest in words(line, "crate").filter_map(|rest| rest.strip_prefix("::")) {
                let target: String = rest.chars().take_while(|c| is_word(*c)).collect();
                if rest.starts_with('{') {
                    problems.push(format!("{}:{number}: write one `use crate::<module>::...` line a module", source.path));
                } else if target != module && !allowed.contains(&target) {
                    problems.push(format!("{}:{number}: `{module}` may not import `{target}` (docs/ARCHITECTURE.md)", source.path));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn the_import_table_has_no_cycle_and_names_only_its_own_rows() {
    let mut left = import_table();
    let names: BTreeSet<String> = left.keys().cloned().collect();
    assert!(left.values().flatten().all(|name| names.contains(name)), "an import that is no row: {left:?}");
    loop {
        let free: Vec<String> = left.iter().filter(|(_, imports)| imports.is_empty()).map(|(name, _)| name.clone()).collect();
        if free.is_empty() {
            break;
        }
        left.retain(|name, _| !free.contains(name));
        left.values_mut().for_each(|imports| imports.retain(|name| !free.contains(name)));
    }
    assert!(left.is_empty(), "a cycle among {left:?}");
}

#[test]
fn every_file_of_the_two_services_stands_once_in_a_table_of_the_architecture() {
    let mut problems = Vec::new();
    for module in MODULES_BY_FILE {
        let named = files_of_tables(module);
        let files: BTreeSet<String> = sources(&format!("host/src/{module}")).into_iter().map(|source| source.path).collect();
        for path in files.iter().filter(|path| !is_test(path) && **path != format!("host/src/{module}/mod.rs")) {
            match named.iter().filter(|name| *name == path).count() {
                0 => problems.push(format!("{path}: stands in no table of docs/ARCHITECTURE.md, \"Inside `{module}/`\"")),
                1 => {}
                times => problems.push(format!("{path}: stands {times} times in the tables of docs/ARCHITECTURE.md")),
            }
        }
        problems.extend(named.iter().filter(|name| !files.contains(*name)).map(|name| format!("docs/ARCHITECTURE.md: there is no {name}")));
    }
    report(&problems);
}

#[test]
fn unsafe_stands_only_where_the_list_says() {
    let mut problems = Vec::new();
    for source in ["host", "plugin-api", "plugins"].into_iter().flat_map(sources) {
        if UNSAFE_ALLOWED.iter().any(|allowed| source.path.starts_with(allowed)) {
            continue;
        }
        let unsafe_code =
            |rest: &str| ["{", "fn ", "impl", "extern", "trait", "("].iter().any(|start| rest.trim_start().starts_with(start));
        for (number, line) in code(&source.text) {
            if words(line, "unsafe").any(unsafe_code) {
                problems.push(format!("{}:{number}: `unsafe` may stand only in {UNSAFE_ALLOWED:?}", source.path));
            }
        }
    }
    report(&problems);
}

#[test]
fn the_host_knows_no_provider_by_name() {
    let plugins = std::fs::read_dir(root().join("plugins")).expect("plugins/").map(|entry| entry.expect("an entry"));
    let mut names: BTreeSet<String> = PROVIDER_NAMES.map(str::to_owned).into();
    names.extend(plugins.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().to_string_lossy().to_lowercase()));
    names.retain(|name| !PLUGINS_WITHOUT_PROVIDER.contains(&name.as_str()));
    let mut problems = Vec::new();
    for source in sources("host/src").into_iter().filter(|source| !is_test(&source.path)) {
        let text = shipped(&source.text).to_lowercase();
        for (number, line) in code(&text) {
            for name in names.iter().filter(|name| line.contains(name.as_str())) {
                problems.push(format!("{}:{number}: the host knows `{name}`; providers belong in plugins/ and config/", source.path));
            }
        }
    }
    report(&problems);
}

#[test]
fn long_files_have_a_reason() {
    let mut problems = Vec::new();
    for source in ["host/src", "host/tests", "plugin-api", "plugins"].into_iter().flat_map(sources) {
        let lines = source.text.lines().count();
        let reason = LONG_FILES.iter().find(|(path, _)| *path == source.path);
        match (lines > LINES_MAX, reason) {
            (true, None) => problems.push(format!("{}: {lines} lines; split it, or list it with the reason", source.path)),
            (false, Some(_)) => problems.push(format!("{}: {lines} lines; take it off the list", source.path)),
            _ => {}
        }
    }
    report(&problems);
}

#[test]
fn long_functions_have_a_reason() {
    let mut found = Vec::new();
    for source in ["host", "plugin-api", "plugins"].into_iter().flat_map(sources) {
        for Function { number, name, lines, .. } in functions(&source.text) {
            if lines > FUNCTION_LINES_MAX {
                found.push((source.path.clone(), number, name.to_owned(), format!("has {lines} lines")));
            }
        }
    }
    report_unlisted(found, &LONG_FUNCTIONS);
}

#[test]
fn functions_with_many_parameters_have_a_reason() {
    let mut found = Vec::new();
    for source in shipped_sources() {
        for Function { number, name, parameters, .. } in functions(&source.text) {
            let count = parameters.iter().filter(|parameter| !UNCOUNTED.contains(&parameter.as_str())).count();
            if count > PARAMETERS_MAX {
                found.push((source.path.clone(), number, name.to_owned(), format!("has {count} parameters")));
            }
        }
    }
    report_unlisted(found, &MANY_PARAMETERS);
}

#[test]
fn only_the_error_of_http_names_status_codes() {
    let found = lines_with("StatusCode", &[STATUS_CODES]);
    report(&found.map(|place| format!("{place}: status codes stand in {STATUS_CODES} alone")).collect::<Vec<_>>());
}

#[test]
fn json_is_known_to_the_public_forms_alone() {
    let found = lines_with("serde_json", &JSON_ALLOWED);
    report(&found.map(|place| format!("{place}: JSON may stand only in {JSON_ALLOWED:?}")).collect::<Vec<_>>());
}

#[test]
fn no_test_is_ignored_or_wants_a_panic() {
    let mut problems = Vec::new();
    for source in ["host", "plugin-api", "plugins"].into_iter().flat_map(sources) {
        for (number, line) in code(&source.text) {
            if ["#[ignore", "#[should_panic"].iter().any(|mark| line.trim_start().starts_with(mark)) {
                problems.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    report(&problems);
}

#[test]
fn every_module_begins_with_what_it_owns() {
    let without = shipped_sources().filter(|source| !source.text.starts_with("//! "));
    report(&without.map(|source| format!("{}: begins with no `//!`", source.path)).collect::<Vec<_>>());
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    let manifest = |path: PathBuf| std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let workspace: toml::Table = manifest(root().join("Cargo.toml")).parse().expect("TOML");
    let lints = &workspace["workspace"]["lints"]["clippy"];
    let mut problems: Vec<String> = CLIPPY_LINTS
        .iter()
        .filter(|lint| lints.get(lint).is_none())
        .map(|lint| format!("Cargo.toml: clippy no longer warns of {lint}"))
        .collect();
    for member in workspace["workspace"]["members"].as_array().expect("a list").iter().filter_map(|member| member.as_str()) {
        let member_lints: toml::Table = manifest(root().join(member).join("Cargo.toml")).parse().expect("TOML");
        if member_lints.get("lints").and_then(|lints| lints.get("workspace")) != Some(&true.into()) {
            problems.push(format!("{member}/Cargo.toml: has not `[lints] workspace = true`"));
        }
    }
    report(&problems);
}

/// Where a word stands in shipped code outside of the allowed files.
fn lines_with<'a>(word: &'a str, allowed: &'a [&str]) -> impl Iterator<Item = String> + 'a {
    let elsewhere =
        |source: &Source| source.path.starts_with("host/src/") && !allowed.iter().any(|allowed| source.path.starts_with(allowed));
    shipped_sources().filter(elsewhere).flat_map(move |source| {
        let numbers = code(&source.text).filter(|(_, line)| words(line, word).next().is_some()).map(|(number, _)| number);
        numbers.map(|number| format!("{}:{number}", source.path)).collect::<Vec<_>>()
    })
}

/// What is built into the product or a plugin: neither files of tests nor what a file has for them.
fn shipped_sources() -> impl Iterator<Item = Source> {
    let folders = ["host/src", "plugin-api/src", "plugins"].into_iter().flat_map(sources);
    let shipped_only = |source: Source| Source { text: shipped(&source.text).to_owned(), path: source.path };
    folders.filter(|source| !is_test(&source.path)).map(shipped_only)
}

/// A file without the tests at its end.
fn shipped(text: &str) -> &str {
    let tests = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\npub mod tests {"];
    tests.iter().filter_map(|start| text.find(start)).min().map_or(text, |at| &text[..at])
}

fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    path.contains("/tests/") || ["tests.rs", "testing.rs", "contract.rs"].iter().any(|end| name.ends_with(end))
}
