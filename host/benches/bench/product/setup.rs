//! The configuration of one run, in folders of its own.

use crate::kafka::Topics;
use crate::peers::SESSIONS;
use crate::sinks::Address;
use std::path::Path;

/// How Postwarm is set up for a run.
pub struct Setup {
    pub sink: Address,
    /// Connections of all organizations together; each has one at least.
    pub connections: usize,
    pub organizations: usize,
    /// Further settings of the SMTP client, as TOML.
    pub settings: String,
    /// Further keys at the head of an organization's file.
    pub head: &'static str,
    /// DKIM.
    pub signer: Option<Signer>,
    /// Events through Kafka; otherwise through the embedded log.
    pub kafka: Option<Topics>,
}

/// A key that signs.
pub struct Signer {
    pub algorithm: &'static str,
    pub pem: String,
}

impl Setup {
    /// One organization, and a sink in clear.
    pub fn to(sink: Address) -> Setup {
        Setup { sink, connections: SESSIONS, organizations: 1, settings: String::new(), head: "", signer: None, kafka: None }
    }

    /// The names of the organizations.
    pub fn names(&self) -> Vec<String> {
        (0..self.organizations).map(|number| if number == 0 { "acme".to_owned() } else { format!("acme-{number}") }).collect()
    }

    /// Writes the files into a folder.
    pub fn write(&self, folder: &Path) {
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("the folder can be written");
        std::fs::create_dir_all(folder.join("organizations")).expect("the folder can be made");
        write("postwarm.toml", &self.process());
        write("providers.toml", "");
        if let Some(signer) = &self.signer {
            write("organizations/dkim.pem", &signer.pem);
        }
        let organization = self.organization();
        self.names().iter().for_each(|name| write(&format!("organizations/{name}.toml"), &organization));
    }

    fn process(&self) -> String {
        let services = "[warmup]\nlisten = \"127.0.0.1:0\"\n[health]\nlisten = \"127.0.0.1:0\"\n[dns]\nenabled = false\n";
        let events = self.kafka.as_ref().map(|topics| {
            let Topics { emails, recipients, facts, .. } = topics;
            let names = format!("emails = {emails:?}, recipients = {recipients:?}, facts = {facts:?}");
            format!("[events]\nkind = \"kafka\"\nkafka = {{ brokers = [{:?}], topics = {{ {names} }} }}\n", topics.brokers())
        });
        format!("{services}{}", events.unwrap_or_default())
    }

    fn organization(&self) -> String {
        let Setup { sink: Address { port, .. }, settings, head, .. } = self;
        let connections = (self.connections / self.organizations).max(1);
        let tls = if settings.contains("tls") { "" } else { "tls = \"none\", " };
        let signer = self.signer.as_ref().map(|signer| {
            let key = "key = { file = \"dkim.pem\" }";
            format!("[[dkim]]\ndomain = \"acme.example\"\nselector = \"s1\"\nalgorithm = {:?}\n{key}\n", signer.algorithm)
        });
        format!(
            "from_domains = [\"acme.example\"]\ndevelopment = true\n{head}\n{}[[smtp]]\nname = \"sink\"\nplugin = \"smtp\"\n\
             limits = {{ connections = {connections} }}\nsettings = {{ {tls}{settings}host = \"127.0.0.1\", port = {port} }}\n",
            signer.unwrap_or_default()
        )
    }
}
