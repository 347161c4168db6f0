//! What a bench needs beside the product, and how to come by it.

use crate::kafka::Broker;
use crate::peers::libraries::{AIOSMTPLIB, NODEMAILER};
use crate::process::program;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    Postfix,
    Kafka,
    Openssl,
    Nodemailer,
    Aiosmtplib,
}

impl Need {
    /// Fetches it where the bench can; says why it is not there.
    pub fn meet(self) -> Result<(), String> {
        match self {
            Need::Postfix => programs(&["smtp-sink", "smtp-source"], "Debian: apt-get install postfix"),
            Need::Kafka => Broker::find().map(|_| ()),
            Need::Openssl => programs(&["openssl"], "Debian: apt-get install openssl"),
            Need::Nodemailer => programs(&["node", "npm"], "Debian: apt-get install nodejs npm").and_then(|()| NODEMAILER.fetch()),
            Need::Aiosmtplib => programs(&["python3"], "Debian: apt-get install python3-pip").and_then(|()| AIOSMTPLIB.fetch()),
        }
    }
}

fn programs(names: &[&str], remedy: &str) -> Result<(), String> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| program(name).is_none()).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("{} not installed ({remedy})", missing.join(" and "))) }
}
