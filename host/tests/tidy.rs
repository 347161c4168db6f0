//! Rules of the sources that no compiler checks. `docs/ARCHITECTURE.md` holds the import table that is read here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Files longer than this need a reason.
const LINES_MAX: usize = 400;
/// The files that read better in one piece, each with the reason.
const LONG_FILES: [(&str, &str); 1] = [(
    "host/src/warmup/store_contract.rs",
    "the promises of the store read from top to bottom; what needs an order of its own stands beside it",
)];
/// Where `unsafe` may stand: folders end in `/`, others are the start of a file's path.
const UNSAFE_ALLOWED: [&str; 4] = ["host/src/registry/", "host/src/clock.rs", "plugin-api/src/abi", "plugin-api/src/export"];
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

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
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
        let text = source.text.to_lowercase();
        let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (number, line) in code(shipped) {
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

fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    path.contains("/tests/") || ["tests.rs", "testing.rs", "contract.rs"].iter().any(|end| name.ends_with(end))
}
