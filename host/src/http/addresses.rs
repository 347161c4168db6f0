//! How many connections each remote address has.
//!
//! Invariant: what is counted is given back, however its connection ends; memory is bounded by the connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// Counts the connections of each remote address.
#[derive(Clone, Default)]
pub struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One counted connection, given back when dropped.
pub struct Place {
    addresses: Addresses,
    address: IpAddr,
}

impl Addresses {
    /// Counts one more connection; `None` where `max` are open already. Loopback is exempt: a proxy speaks from there.
    pub fn enter(&self, address: IpAddr, max: usize) -> Option<Place> {
        let address = address.to_canonical();
        let mut counts = self.0.lock().expect("no thread panics while it holds this lock");
        let count = counts.entry(address).or_default();
        if *count >= max && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Place { addresses: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock().expect("no thread panics while it holds this lock");
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_a_bound_number_of_connections_and_gets_them_back() {
        let addresses = Addresses::default();
        let (remote, loopback) = ("192.0.2.1".parse().expect("valid"), "::1".parse().expect("valid"));
        let first = addresses.enter(remote, 2);
        let _second = addresses.enter(remote, 2);
        assert!(addresses.enter(remote, 2).is_none());
        drop(first);
        assert!(addresses.enter(remote, 2).is_some());
        let many: Vec<_> = (0..5).map(|_| addresses.enter(loopback, 2)).collect();
        assert!(many.iter().all(Option::is_some));
    }
}
