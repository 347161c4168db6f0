//! Names and numbers that identify things.

use std::fmt;
use std::sync::Arc;

/// An organization's name: the stem of its TOML file. 1 to 63 lower case letters, digits and hyphens.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrgName(Arc<str>);

impl OrgName {
    /// Parses a name; `Err` says what would be right.
    pub fn parse(text: &str) -> Result<OrgName, String> {
        let ok = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-');
        if ok {
            Ok(OrgName(text.into()))
        } else {
            Err(format!("`{}` is no organization name: use 1 to 63 lower case letters, digits and hyphens", text.escape_debug()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OrgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrgName({})", self.0)
    }
}

/// The mailbox provider of the domains that none is known to receive for.
pub const OTHER: &str = "other";

/// An organization's number within one warmup database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrgId(pub i64);

/// An email's number within its organization; counts from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EmailNumber(pub i64);

/// A user's number within its organization; counts from 1 in the order of registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserNumber(pub i64);

/// One delivery: one email for one user. Its text form is `EMAIL.USER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryKey {
    pub org: OrgId,
    pub email: EmailNumber,
    pub user: UserNumber,
}

impl fmt::Display for DeliveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(itoa::Buffer::new().format(self.email.0))?;
        f.write_str(".")?;
        f.write_str(itoa::Buffer::new().format(self.user.0))
    }
}
