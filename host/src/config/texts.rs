//! The kinds of text that a value may be.

use std::net::SocketAddr;

/// One kind of text.
pub struct Text {
    /// With its article, as in "is no domain": `domain`.
    pub what: &'static str,
    /// What would be right, ready to read: `write it as "acme.example"`.
    pub remedy: &'static str,
    pub accepts: fn(&str) -> bool,
    /// The same as a regular expression, as near as one comes.
    pub pattern: Option<&'static str>,
}

pub static NAME: Text = Text {
    what: "name",
    remedy: "use 1 to 63 lower case letters, digits, hyphens and underscores, such as \"relay-1\"",
    accepts: is_name,
    pattern: Some("^[a-z0-9][a-z0-9_-]{0,62}$"),
};
pub static ALIAS: Text = Text {
    what: "alias",
    remedy: "use letters, digits, hyphens and underscores, such as \"RELAY\"",
    accepts: |text| is_name(&text.to_ascii_lowercase()),
    pattern: Some("^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"),
};
pub static LISTEN: Text = Text {
    what: "address to listen on",
    remedy: "write an IP address and a port, such as \"127.0.0.1:8080\"",
    accepts: |text| text.parse::<SocketAddr>().is_ok(),
    pattern: Some(":[0-9]{1,5}$"),
};
pub static NAMESERVER: Text = Text {
    what: "address of a nameserver",
    remedy: "write an IP address and a port, such as \"127.0.0.1:53\"",
    accepts: |text| text.parse::<SocketAddr>().is_ok_and(|a| a.port() > 0),
    pattern: Some(":[0-9]{1,5}$"),
};
pub static BROKER: Text = Text {
    what: "address of a broker",
    remedy: "write a host and a port, such as \"localhost:9092\"",
    accepts: is_broker,
    pattern: Some("^[^\\s,]+:[0-9]{1,5}$"),
};
pub static TOPIC: Text = Text {
    what: "topic name",
    remedy: "use 1 to 249 letters, digits, dots, hyphens and underscores, such as \"email-events\"",
    accepts: is_topic,
    pattern: Some("^[A-Za-z0-9._-]{1,249}$"),
};
pub static DOMAIN: Text = Text { what: "domain", remedy: "write it as \"acme.example\"", accepts: is_domain, pattern: None };
pub static SELECTOR: Text = Text {
    what: "DKIM selector",
    remedy: "write it as \"s1\"",
    accepts: |text| is_domain(&text.replace('_', "-")),
    pattern: Some("^[A-Za-z0-9._-]{1,253}$"),
};
pub static RECIPIENT_DOMAIN: Text = Text {
    what: "pattern of recipient domains",
    remedy: "write \"acme.example\", \"*.acme.example\" or \"*\"",
    accepts: |text| text == "*" || is_domain(text.strip_prefix("*.").unwrap_or(text)),
    pattern: None,
};
pub static URL: Text = Text {
    what: "URL to reach this service at",
    remedy: "write it as \"https://mail.acme.example\", without a query",
    accepts: is_url,
    pattern: Some("^https?://[^/?#\\s]+[^?#\\s]*$"),
};
pub static VARIABLE: Text = Text {
    what: "name of an environment variable",
    remedy: "use letters, digits and underscores, such as \"SMTP_PASSWORD\"",
    accepts: is_variable,
    pattern: Some("^[A-Za-z_][A-Za-z0-9_]*$"),
};
pub static PATH: Text =
    Text { what: "path", remedy: "name a file or folder", accepts: |text| !text.is_empty() && !text.contains('\0'), pattern: Some(".") };

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len()) && text.bytes().all(|b| plain(b) || b == b'-' || b == b'_') && text.bytes().next().is_some_and(plain)
}

fn is_variable(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

pub fn is_topic(text: &str) -> bool {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    (1..=249).contains(&text.len()) && plain && text != "." && text != ".."
}

pub fn is_broker(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_ok = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == ',' || c == '/');
    host_ok && port.parse::<u16>().is_ok_and(|p| p > 0)
}

/// A domain of RFC 5321: labels of letters, digits and hyphens, 63 octets each and 253 in all. Letters beyond ASCII are
/// those of RFC 6531.
fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        let plain = label.chars().all(|c| c.is_alphanumeric() || c == '-');
        (1..=63).contains(&label.len()) && plain && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let clean = !text.contains(|c: char| c.is_whitespace() || c.is_control() || "?#<>\"\\".contains(c));
    clean && rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && text.parse::<http::Uri>().is_ok())
}
