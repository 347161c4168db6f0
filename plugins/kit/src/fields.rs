//! Reads a settings table field by field and collects what is wrong with it.
//!
//! Invariant: knows types and names of fields, not what they are for; of meaning it knows credentials alone.

use postwarm_plugin_api::{Secret, SettingsProblem};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// A table that is being read. A key that nobody asked for is a problem at [`finish`](Fields::finish).
pub struct Fields<'a> {
    table: &'a Map<String, Value>,
    secrets: Option<&'a BTreeMap<String, Secret>>,
    /// The pointer of the table itself.
    pointer: String,
    known: Vec<&'static str>,
    problems: Vec<SettingsProblem>,
}

impl<'a> Fields<'a> {
    pub fn new(table: &'a Map<String, Value>, secrets: &'a BTreeMap<String, Secret>) -> Fields<'a> {
        Fields { table, secrets: Some(secrets), pointer: String::new(), known: Vec::new(), problems: Vec::new() }
    }

    /// Tells whether the table has this key, right or wrong.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key) || self.secrets.is_some_and(|secrets| secrets.contains_key(key))
    }

    /// Adds a problem at `pointer`, relative to this table.
    pub fn problem(&mut self, pointer: &str, message: impl Into<String>) {
        self.problems.push(SettingsProblem::new(format!("{}{pointer}", self.pointer), message));
    }

    /// Reads a text that is not empty; a resolved secret of this name is taken too.
    pub fn text(&mut self, key: &'static str) -> Option<&'a str> {
        if self.get(key).is_none() {
            return self.secrets.and_then(|secrets| secrets.get(key)).map(Secret::expose);
        }
        self.value(key, "a text that is not empty", |value| value.as_str().filter(|text| !text.trim().is_empty()))
    }

    /// Reads a secret, which the host resolved.
    pub fn secret(&mut self, key: &'static str) -> Option<Secret> {
        if self.get(key).is_some() {
            self.problem(
                &format!("/{key}"),
                format!("{key} must be a reference, such as {key} = {{ env = \"SMTP_PASSWORD\" }} or {{ file = \"...\" }}"),
            );
        }
        self.secrets.and_then(|secrets| secrets.get(key)).cloned()
    }

    /// Reads `username` and `password`, which come as a pair.
    pub fn credentials(&mut self) -> (Option<&'a str>, Option<Secret>) {
        let (username, password) = (self.text("username"), self.secret("password"));
        match (username, &password) {
            (Some(_), None) if !self.has("password") => self.problem(
                "/password",
                "password is missing beside username; give a reference, such as password = { env = \"SMTP_PASSWORD\" }",
            ),
            (None, Some(_)) if !self.has("username") => self.problem("/username", "username is missing beside password"),
            _ => {}
        }
        (username, password)
    }

    /// Reads what `read` makes of a value; where it makes nothing, `expected` says what the value must be.
    pub fn value<T>(&mut self, key: &'static str, expected: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let read = read(self.get(key)?);
        if read.is_none() {
            self.problem(&format!("/{key}"), format!("{key} must be {expected}"));
        }
        read
    }

    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.value(key, "true or false", Value::as_bool)
    }

    pub fn port(&mut self, key: &'static str) -> Option<u16> {
        self.value(key, "a port from 1 to 65535", |value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0))
    }

    /// Reads a number of things, at least 1.
    pub fn count(&mut self, key: &'static str) -> Option<u32> {
        self.value(key, "a whole number of at least 1", |value| {
            value.as_u64().and_then(|count| u32::try_from(count).ok()).filter(|&count| count > 0)
        })
    }

    /// Reads a duration such as `"30s"`, longer than zero and at most a day.
    pub fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.value(key, "a duration of at most a day, such as \"30s\" or \"5m\"", |value| {
            let duration = humantime::parse_duration(value.as_str()?).ok()?;
            (!duration.is_zero() && duration <= Duration::from_secs(86_400)).then_some(duration)
        })
    }

    /// Reads one of a few words.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        self.value(key, &format!("one of {}", names.join(", ")), |value| {
            let word = value.as_str()?;
            choices.iter().find(|(name, _)| *name == word).map(|&(_, choice)| choice)
        })
    }

    /// Opens a table within this one; give it back to [`absorb`](Fields::absorb).
    pub fn table(&mut self, key: &'static str) -> Option<Fields<'a>> {
        let table = self.value(key, "a table", Value::as_object)?;
        Some(Fields { table, secrets: None, pointer: format!("{}/{key}", self.pointer), known: Vec::new(), problems: Vec::new() })
    }

    /// Takes over the problems of an inner table.
    pub fn absorb(&mut self, mut inner: Fields<'_>) {
        inner.report_unknown();
        self.problems.append(&mut inner.problems);
    }

    /// Returns `value` if nothing was wrong.
    pub fn finish<T>(mut self, value: T) -> Result<T, Vec<SettingsProblem>> {
        self.report_unknown();
        if self.problems.is_empty() { Ok(value) } else { Err(self.problems) }
    }

    fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key)
    }

    fn report_unknown(&mut self) {
        let secrets = self.secrets.into_iter().flat_map(BTreeMap::keys);
        let unknown: Vec<&String> = self.table.keys().chain(secrets).filter(|key| !self.known.contains(&key.as_str())).collect();
        for key in unknown {
            let nearest = self
                .known
                .iter()
                .map(|known| (strsim::damerau_levenshtein(key, known), known))
                .min()
                .filter(|(distance, known)| *distance <= known.len() / 2);
            let message = match nearest {
                Some((_, known)) => format!("{key} is no setting; did you mean {known}?"),
                None => format!("{key} is no setting; the settings are {}", self.known.join(", ")),
            };
            let pointer = key.replace('~', "~0").replace('/', "~1");
            self.problem(&format!("/{pointer}"), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::{Defaults, ServerSettings, Tls};
    use expect_test::{Expect, expect};
    use postwarm_plugin_testkit::instance::instance;
    use std::time::Duration;

    fn check(settings: serde_json::Value, secrets: &[(&str, &str)], expected: Expect) {
        let problems = ServerSettings::parse(&instance(settings, secrets), Defaults::default()).err().unwrap_or_default();
        let lines: Vec<String> = problems.iter().map(|problem| format!("{}: {}\n", problem.pointer, problem.message)).collect();
        expected.assert_eq(&lines.concat());
    }

    #[test]
    fn a_host_is_enough() {
        let settings = ServerSettings::parse(&instance(serde_json::json!({ "host": "mx.example" }), &[]), Defaults::default()).unwrap();
        assert_eq!((settings.port, settings.messages_per_connection_max), (587, 1000));
        assert_eq!(settings.deadlines.end_of_data, Duration::from_secs(600));
    }

    #[test]
    fn the_toml_overrides_the_presets() {
        let presets = Defaults { host: Some("smtp.example"), port: Some(2525), ..Defaults::default() };
        let given = serde_json::json!({ "port": 26, "deadlines": { "mail": "3s" } });
        let settings = ServerSettings::parse(&instance(given, &[]), presets).unwrap();
        assert_eq!((settings.host.as_str(), settings.port), ("smtp.example", 26));
        assert_eq!(settings.deadlines.mail, Duration::from_secs(3));
    }

    #[test]
    fn another_tls_mode_brings_its_own_port() {
        let presets = Defaults { host: Some("smtp.example"), port: Some(465), tls: Some(Tls::Implicit), ..Defaults::default() };
        let settings = ServerSettings::parse(&instance(serde_json::json!({ "tls": "starttls" }), &[]), presets).unwrap();
        assert_eq!(settings.port, 587);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        check(
            serde_json::json!({
                "hots": "a", "port": 0, "tls": "maybe", "auth": "plain", "idle_max": "soon", "pipelining": 1,
                "password": "literal", "deadlines": { "mial": "1s", "data": "0s" }, "helo_name": "a b",
            }),
            &[],
            expect![[r#"
                /tls: tls must be one of "implicit", "starttls", "none"
                /host: host is missing; name the server, such as host = "smtp.example.com"
                /port: port must be a port from 1 to 65535
                /password: password must be a reference, such as password = { env = "SMTP_PASSWORD" } or { file = "..." }
                /idle_max: idle_max must be a duration of at most a day, such as "30s" or "5m"
                /deadlines/data: data must be a duration of at most a day, such as "30s" or "5m"
                /deadlines/mial: mial is no setting; did you mean mail?
                /pipelining: pipelining must be true or false
                /auth: auth names a mechanism but there are no credentials; add username and password, or remove auth
                /helo_name: helo_name must be a host name or an address literal such as [192.0.2.1], without spaces
                /hots: hots is no setting; did you mean host?
            "#]],
        );
    }

    #[test]
    fn credentials_come_as_a_pair() {
        check(
            serde_json::json!({ "host": "a", "username": "u" }),
            &[],
            expect![[r#"
                /password: password is missing beside username; give a reference, such as password = { env = "SMTP_PASSWORD" }
            "#]],
        );
        check(
            serde_json::json!({ "host": "a" }),
            &[("password", "p")],
            expect![[r#"
                /username: username is missing beside password
            "#]],
        );
        check(serde_json::json!({ "host": "a" }), &[("password", "p"), ("username", "u")], expect![[""]]);
    }
}
