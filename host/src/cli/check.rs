//! `postwarm check`: everything that is wrong with a configuration, at once.

use crate::config::catalogue::Catalogue;
use crate::config::loader::load;
use crate::config::problem::{Problem, Severity};
use crate::config::secrets::Env;
use crate::config::serving::Serving;
use serde_json::json;
use std::io::Write;
use std::path::Path;

const OK: i32 = 0;
/// EX_CONFIG of sysexits.
const CONFIGURATION: i32 = 78;

/// How the findings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One a line: `file:line:column: what is wrong; what would be right`.
    Lines,
    /// `{"ok": true, "organizations": ["acme"], "problems": [{file, line, column, severity, message, remedy}], "warnings": [...]}`.
    Json,
}

/// Checks a folder as the start and the reload do. Returns 0, or 78 with any problem; warnings alone are no failure.
pub fn run(dir: &Path, format: Format, env: &Env<'_>, catalogue: &dyn Catalogue, out: &mut dyn Write) -> std::io::Result<i32> {
    let loaded = load(dir, Serving::Both, env, catalogue);
    let ok = loaded.settings.is_some();
    let organizations: Vec<String> =
        loaded.settings.iter().flat_map(|settings| settings.organizations.keys()).map(ToString::to_string).collect();
    match format {
        Format::Json => {
            let answer = json!({ "ok": ok, "organizations": organizations, "problems": loaded.problems, "warnings": loaded.warnings });
            writeln!(out, "{answer:#}")?;
        }
        Format::Lines => {
            loaded.problems.iter().chain(&loaded.warnings).try_for_each(|problem| line(problem, out))?;
            if ok {
                let what = if organizations.len() == 1 { "organization" } else { "organizations" };
                writeln!(out, "{}: ok, {} {what}", dir.display(), organizations.len())?;
            }
        }
    }
    Ok(if ok { OK } else { CONFIGURATION })
}

fn line(problem: &Problem, out: &mut dyn Write) -> std::io::Result<()> {
    match problem.severity {
        Severity::Error => writeln!(out, "{problem}"),
        Severity::Warning => {
            let message = format!("warning: {}", problem.message);
            writeln!(out, "{}", Problem { message, ..problem.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, run};
    use crate::config::tests::{Folder, Plugins};
    use expect_test::expect;

    fn check(folder: &Folder, format: Format) -> (i32, String) {
        let mut out = Vec::new();
        let code = run(folder.dir.path(), format, &|_| None, &Plugins, &mut out).unwrap();
        (code, String::from_utf8(out).unwrap().replace(&folder.dir.path().display().to_string(), "DIR"))
    }

    #[test]
    fn warnings_are_shown_and_are_no_failure() {
        let folder = Folder::demo(&[("organizations/acme.toml", "from_domains = [\"a.example\"]\n")]);
        let (code, shown) = check(&folder, Format::Lines);
        assert_eq!(code, 0);
        expect![[r#"
            DIR/organizations/acme.toml:1:1: warning: there is no public_url, so that mail has no List-Unsubscribe; add public_url = "https://...", where this service is reached from outside
            DIR/organizations/acme.toml:1:1: warning: there is no [[smtp]], so that mail waits; add one
            DIR/organizations/acme.toml:1:1: warning: there is no API key, so that nobody can use it; make one with `postwarm key new acme`
            DIR: ok, 2 organizations
        "#]].assert_eq(&shown);
    }

    #[test]
    fn problems_end_with_78_in_either_format() {
        let folder = Folder::demo(&[("postwarm.toml", "[warmup]\nlisen = 1\n")]);
        let (code, shown) = check(&folder, Format::Lines);
        assert_eq!(code, 78);
        expect![[r#"
            DIR/postwarm.toml:2:1: `lisen` is no key of [warmup]; did you mean `listen`?
        "#]]
        .assert_eq(&shown);
        let (code, shown) = check(&folder, Format::Json);
        assert_eq!(code, 78);
        expect![[r#"
            {
              "ok": false,
              "organizations": [],
              "problems": [
                {
                  "column": 1,
                  "file": "DIR/postwarm.toml",
                  "line": 2,
                  "message": "`lisen` is no key of [warmup]",
                  "remedy": "did you mean `listen`?",
                  "severity": "error"
                }
              ],
              "warnings": []
            }
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn a_folder_that_is_not_there_is_a_problem() {
        let mut out = Vec::new();
        let code = run(std::path::Path::new("no/such/folder"), Format::Lines, &|_| None, &Plugins, &mut out).unwrap();
        assert_eq!(code, 78);
        expect![[r#"
            no/such/folder: there is no such folder; make it, or name another with --config
            no/such/folder/organizations: warning: there is no organization; add organizations/NAME.toml
        "#]]
        .assert_eq(&String::from_utf8(out).unwrap());
    }
}
