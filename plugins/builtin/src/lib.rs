//! The list of built-in plugins.
//!
//! A crate that is only a dependency registers nothing, because the linker leaves it out: each is named here.
//!
//! Invariant: [`EXPECTED`] is what a sound binary holds, neither less nor more, and the host asks [`self_check`] at
//! every start.

use postwarm_plugin_api::{Builtin, Kind, inventory};
use postwarm_plugin_gmail as _;
use postwarm_plugin_mailpit as _;
use postwarm_plugin_outlook as _;
use postwarm_plugin_sandbox as _;
use postwarm_plugin_smtp as _;
use postwarm_plugin_yahoo as _;

/// Every built-in, sorted.
pub const EXPECTED: &[(Kind, &str)] = &[
    (Kind::SmtpClient, "gmail"),
    (Kind::SmtpClient, "mailpit"),
    (Kind::SmtpClient, "outlook"),
    (Kind::SmtpClient, "sandbox"),
    (Kind::SmtpClient, "smtp"),
    (Kind::SmtpClient, "yahoo"),
    (Kind::FeedbackLoop, "mailpit"),
    (Kind::FeedbackLoop, "sandbox"),
];

/// Compares what registered with what is expected.
///
/// # Errors
/// Names every built-in that is missing, registered twice, or not expected.
pub fn self_check() -> Result<(), String> {
    compare(EXPECTED, &registered())
}

/// What registered, sorted by kind and id.
fn registered() -> Vec<(Kind, String)> {
    let mut registered: Vec<_> = inventory::iter::<Builtin>
        .into_iter()
        .map(|builtin| match builtin {
            Builtin::Smtp(factory) => factory.descriptor(),
            Builtin::Feedback(factory) => factory.descriptor(),
        })
        .map(|descriptor| (descriptor.kind, descriptor.id.into_owned()))
        .collect();
    registered.sort();
    registered
}

fn compare(expected: &[(Kind, &str)], registered: &[(Kind, String)]) -> Result<(), String> {
    let mut problems = Vec::new();
    for (kind, id) in expected {
        match registered.iter().filter(|(k, i)| k == kind && i == id).count() {
            0 => problems.push(format!("{} `{id}` is missing", name(*kind))),
            1 => {}
            count => problems.push(format!("{} `{id}` registered {count} times", name(*kind))),
        }
    }
    for (kind, id) in registered.iter().filter(|(kind, id)| !expected.contains(&(*kind, id.as_str()))) {
        problems.push(format!("{} `{id}` is not in the list of built-ins", name(*kind)));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::SmtpClient => "the SMTP client",
        Kind::FeedbackLoop => "the feedback loop",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postwarm_plugin_api::{Instance, Secret};
    use postwarm_plugin_testkit::conformance::smtp::{Pointed, smtp_client};
    use postwarm_plugin_testkit::instance::instance;
    use serde_json::json;
    use std::net::SocketAddr;

    #[test]
    fn every_built_in_is_registered_once() {
        assert_eq!(self_check(), Ok(()));
    }

    /// The settings of a server at this address, without TLS; with a secret, credentials in clear over loopback.
    fn settings_at(address: SocketAddr, secret: Option<Secret>) -> Instance {
        let mut settings = json!({ "host": address.ip().to_string(), "port": address.port(), "tls": "none" });
        if secret.is_some() {
            settings["username"] = "user".into();
            settings["allow_insecure_auth"] = true.into();
        }
        let mut made = Instance { connections_max: 3, ..instance(settings, &[]) };
        made.secrets.extend(secret.map(|secret| ("password".to_owned(), secret)));
        made
    }

    #[tokio::test]
    async fn every_client_that_sends_to_any_server_keeps_the_contract() {
        for builtin in inventory::iter::<Builtin> {
            let Builtin::Smtp(factory) = builtin else { continue };
            // The sandbox brings its own server and runs the suite beside it.
            if factory.descriptor().id == "sandbox" {
                continue;
            }
            let at = |address| settings_at(address, None);
            let with_secret = |address, secret| settings_at(address, Some(secret));
            smtp_client(Pointed { factory: *factory, at: &at, with_secret: Some(&with_secret) }).await.assert_passed();
        }
    }

    #[test]
    fn a_user_name_and_a_password_are_enough_for_a_provider() {
        for builtin in inventory::iter::<Builtin> {
            let Builtin::Smtp(factory) = builtin else { continue };
            let id = factory.descriptor().id;
            // Any server must be named; the sandbox asks for no credentials.
            if ["smtp", "sandbox"].contains(&&*id) {
                continue;
            }
            let given = instance(json!({ "username": "me@acme.example" }), &[("password", "secret")]);
            let client = factory.create(Instance { connections_max: 2, ..given }).unwrap_or_else(|problems| panic!("{id}: {problems:?}"));
            assert_eq!(client.in_flight_max(), 6, "{id}: three calls a connection");
        }
    }

    #[test]
    fn what_is_missing_doubled_or_unexpected_is_named() {
        let expected = [(Kind::SmtpClient, "a"), (Kind::SmtpClient, "b"), (Kind::FeedbackLoop, "b")];
        let registered = [(Kind::SmtpClient, "b"), (Kind::SmtpClient, "b"), (Kind::SmtpClient, "c"), (Kind::FeedbackLoop, "b")];
        let registered = registered.map(|(kind, id)| (kind, id.to_owned()));
        let problems = "the SMTP client `a` is missing; the SMTP client `b` registered 2 times; \
                        the SMTP client `c` is not in the list of built-ins";
        assert_eq!(compare(&expected, &registered), Err(problems.to_owned()));
    }
}
