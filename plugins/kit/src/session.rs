//! What a server announces in its EHLO reply, and how a session authenticates.
//!
//! Invariant: decides, and does no I/O.
//! Invariant: no credential is sent in clear, but over loopback where the settings allow it.

use crate::settings::{Auth, ServerSettings};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The extensions that a server announced and this client knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 1870.
    pub size: bool,
    /// The largest message in octets, where the server names one.
    pub size_octets_max: Option<u64>,
    /// The messages that a connection may carry (RFC 9422), where the server names a number.
    pub mail_max: Option<u32>,
    pub plain: bool,
    pub login: bool,
    pub xoauth2: bool,
}

impl Capabilities {
    /// Reads the lines of an EHLO reply; the first one is the server's name.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Capabilities {
        let mut found = Capabilities::default();
        for line in lines.skip(1) {
            let line = String::from_utf8_lossy(line).to_ascii_uppercase();
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            match words.next() {
                Some("PIPELINING") => found.pipelining = true,
                Some("8BITMIME") => found.eight_bit_mime = true,
                Some("SMTPUTF8") => found.smtputf8 = true,
                Some("STARTTLS") => found.starttls = true,
                Some("DSN") => found.dsn = true,
                Some("SIZE") => {
                    found.size = true;
                    found.size_octets_max = words.next().and_then(|word| word.parse().ok()).filter(|&octets| octets > 0);
                }
                Some("LIMITS") => found.mail_max = mail_max(&line).or(found.mail_max),
                Some("AUTH") => words.for_each(|mechanism| match mechanism {
                    "PLAIN" => found.plain = true,
                    "LOGIN" => found.login = true,
                    "XOAUTH2" => found.xoauth2 = true,
                    _ => {}
                }),
                _ => {}
            }
        }
        found
    }
}

/// Reads `MAILMAX=n` of a LIMITS line; zero is no limit (RFC 9422).
fn mail_max(line: &str) -> Option<u32> {
    line.split(' ').find_map(|word| word.strip_prefix("MAILMAX=")).and_then(|number| number.parse().ok()).filter(|&number| number > 0)
}

/// A way to authenticate (RFC 4954).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Login,
    XOAuth2,
}

/// Why no credentials are sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthRefused {
    #[error(
        "credentials are not sent over a connection without TLS; set tls to \"starttls\" or \"implicit\", or for a server on loopback allow_insecure_auth"
    )]
    InClear,
    #[error("the server offers no authentication that these credentials fit; it must announce AUTH {0}")]
    NotOffered(&'static str),
}

/// Chooses how to authenticate: `Ok(None)` where the settings have no credentials.
pub fn choose_mechanism(
    settings: &ServerSettings,
    offered: &Capabilities,
    encrypted: bool,
    loopback: bool,
) -> Result<Option<Mechanism>, AuthRefused> {
    if settings.auth == Auth::None || settings.username.is_none() || settings.password.is_none() {
        return Ok(None);
    }
    let clear_allowed = loopback && settings.allow_insecure_auth;
    if !(encrypted || clear_allowed) {
        return Err(AuthRefused::InClear);
    }
    let (mechanism, is_offered, name) = match settings.auth {
        Auth::Auto if offered.plain || !offered.login => (Mechanism::Plain, offered.plain, "PLAIN or LOGIN"),
        Auth::Auto | Auth::Login => (Mechanism::Login, offered.login, "LOGIN"),
        Auth::XOAuth2 => (Mechanism::XOAuth2, offered.xoauth2, "XOAUTH2"),
        Auth::Plain | Auth::None => (Mechanism::Plain, offered.plain, "PLAIN"),
    };
    if is_offered { Ok(Some(mechanism)) } else { Err(AuthRefused::NotOffered(name)) }
}

/// Returns the command that starts an authentication, with its line end.
pub fn auth_command(mechanism: Mechanism, username: &str, password: &str) -> String {
    match mechanism {
        Mechanism::Plain => format!("AUTH PLAIN {}\r\n", STANDARD.encode(format!("\0{username}\0{password}"))),
        Mechanism::Login => "AUTH LOGIN\r\n".to_owned(),
        Mechanism::XOAuth2 => {
            format!("AUTH XOAUTH2 {}\r\n", STANDARD.encode(format!("user={username}\x01auth=Bearer {password}\x01\x01")))
        }
    }
}

/// Returns the answer to the `nth` challenge (334), with its line end; `None` where the mechanism has no more to say.
pub fn auth_answer(mechanism: Mechanism, nth: usize, username: &str, password: &str) -> Option<String> {
    match (mechanism, nth) {
        (Mechanism::Login, 0) => Some(format!("{}\r\n", STANDARD.encode(username))),
        (Mechanism::Login, 1) => Some(format!("{}\r\n", STANDARD.encode(password))),
        // The challenge holds the error; an empty answer asks for the final reply.
        (Mechanism::XOAuth2, 0) => Some("\r\n".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(lines: &[&str]) -> Capabilities {
        Capabilities::parse(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn an_ehlo_reply_is_read_whatever_its_case_and_order() {
        let found = capabilities(&[
            "PIPELINING is the server's name",
            "size 35882577",
            "8BITMIME",
            "AUTH LOGIN PLAIN XOAUTH2 PLAIN-CLIENTTOKEN",
            "Pipelining",
            "LIMITS RCPTMAX=20 MAILMAX=5",
        ]);
        let expected = Capabilities {
            pipelining: true,
            eight_bit_mime: true,
            size: true,
            size_octets_max: Some(35_882_577),
            mail_max: Some(5),
            plain: true,
            login: true,
            xoauth2: true,
            ..Capabilities::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_server_name_is_no_extension() {
        assert_eq!(capabilities(&["PIPELINING"]), Capabilities::default());
    }

    #[test]
    fn the_form_of_old_servers_announces_auth_too() {
        assert!(capabilities(&["x", "AUTH=LOGIN"]).login);
    }

    #[test]
    fn credentials_in_clear_need_loopback_and_permission() {
        let offered = Capabilities { plain: true, ..Capabilities::default() };
        let mut settings = ServerSettings::for_tests();
        settings.username = Some("u".into());
        settings.password = Some(postwarm_plugin_api::Secret::new("p"));
        assert_eq!(choose_mechanism(&settings, &offered, true, false), Ok(Some(Mechanism::Plain)));
        assert_eq!(choose_mechanism(&settings, &offered, false, true), Err(AuthRefused::InClear));
        settings.allow_insecure_auth = true;
        assert_eq!(choose_mechanism(&settings, &offered, false, false), Err(AuthRefused::InClear));
        assert_eq!(choose_mechanism(&settings, &offered, false, true), Ok(Some(Mechanism::Plain)));
    }

    #[test]
    fn auto_falls_back_to_login() {
        let offered = Capabilities { login: true, ..Capabilities::default() };
        let mut settings = ServerSettings::for_tests();
        settings.username = Some("u".into());
        settings.password = Some(postwarm_plugin_api::Secret::new("p"));
        assert_eq!(choose_mechanism(&settings, &offered, true, false), Ok(Some(Mechanism::Login)));
        assert_eq!(auth_answer(Mechanism::Login, 0, "u", "p").as_deref(), Some("dQ==\r\n"));
        assert_eq!(auth_answer(Mechanism::Login, 1, "u", "p").as_deref(), Some("cA==\r\n"));
        assert_eq!(auth_answer(Mechanism::Login, 2, "u", "p"), None);
    }

    #[test]
    fn xoauth2_follows_the_published_example() {
        let command = auth_command(Mechanism::XOAuth2, "someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg");
        let expected = concat!(
            "AUTH XOAUTH2 dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjN",
            "SbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cBAQ==\r\n"
        );
        assert_eq!(command, expected);
    }
}
