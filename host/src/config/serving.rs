//! Which of the two services a process serves.

use crate::config::settings::Process;
use std::net::SocketAddr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    Warmup,
    Health,
    Both,
}

impl Serving {
    pub fn warmup(self) -> bool {
        self != Serving::Health
    }

    pub fn health(self) -> bool {
        self != Serving::Warmup
    }

    /// The services of this process by name, with where they listen.
    pub fn listeners(self, process: &Process) -> Vec<(&'static str, SocketAddr)> {
        let warmup = self.warmup().then_some(("warmup", process.warmup.listen));
        let health = self.health().then_some(("health", process.health.listen));
        warmup.into_iter().chain(health).collect()
    }
}
