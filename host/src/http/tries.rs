//! Counts what strangers try, by the network that they try from.
//!
//! Invariant: memory is bounded, and where it is full nobody new is refused; who has the right key or token is never asked.

use crate::clock::Clock;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

/// The time within which tries are counted, in milliseconds.
pub const TRIES_WINDOW_MS: i64 = 60_000;
/// Networks whose tries are remembered.
const NETWORKS_MAX: usize = 4_096;

/// The tries of all networks.
pub struct Tries {
    /// How many one network has within [`TRIES_WINDOW_MS`].
    max: usize,
    clock: Arc<dyn Clock>,
    networks: Mutex<HashMap<IpAddr, VecDeque<i64>>>,
}

impl Tries {
    pub fn new(max: usize, clock: Arc<dyn Clock>) -> Tries {
        Tries { max, clock, networks: Mutex::default() }
    }

    /// Counts one that failed. `Some`: there were too many; the next is looked at in so many seconds.
    pub fn failed(&self, remote: Option<IpAddr>) -> Option<u64> {
        let remote = network(remote?);
        let now = self.clock.now().boot_ms;
        let mut networks = self.networks.lock().expect("no thread panics while it holds this lock");
        if networks.len() >= NETWORKS_MAX {
            networks.retain(|_, tries| tries.back().is_some_and(|at| now - at < TRIES_WINDOW_MS));
        }
        if networks.len() >= NETWORKS_MAX && !networks.contains_key(&remote) {
            return None;
        }
        let tries = networks.entry(remote).or_default();
        while tries.front().is_some_and(|at| now - at >= TRIES_WINDOW_MS) {
            tries.pop_front();
        }
        if tries.len() < self.max {
            tries.push_back(now);
            return None;
        }
        let free_in_ms = tries.front().map_or(0, |at| at + TRIES_WINDOW_MS - now);
        Some(free_in_ms.max(1).unsigned_abs().div_ceil(1_000))
    }
}

/// The network that one caller controls: the address, or the /64 of an IPv6 address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
