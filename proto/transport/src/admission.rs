//! Decides which strangers may start a handshake and which peers may stay. Pure counting: owns no socket and
//! no clock.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use proto::NodeId;

use crate::Tuning;

/// The limits, from [`Tuning`], where each has its reason.
#[derive(Debug, Clone, Copy)]
struct Limits {
    half_open: usize,
    half_open_per_address: usize,
    retry_above: usize,
    connections: usize,
    connections_per_peer: usize,
}

/// What is open now. Bounded by its own limits: every entry stands for a held permit.
#[derive(Debug)]
struct Counts {
    limits: Limits,
    half_open: usize,
    by_address: HashMap<IpAddr, usize>,
    connections: usize,
    by_peer: HashMap<NodeId, usize>,
}

/// The verdict on a first packet.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Handshake,
    ProveAddress,
    Refuse,
}

impl Counts {
    fn judge(&self, address: IpAddr, proven: bool) -> Verdict {
        let here = self.by_address.get(&address).copied().unwrap_or(0);
        if self.half_open >= self.limits.half_open
            || here >= self.limits.half_open_per_address
            || self.connections >= self.limits.connections
        {
            Verdict::Refuse
        } else if self.half_open >= self.limits.retry_above && !proven {
            Verdict::ProveAddress
        } else {
            Verdict::Handshake
        }
    }

    fn may_stay(&self, peer: NodeId) -> bool {
        self.connections < self.limits.connections
            && self.by_peer.get(&peer).copied().unwrap_or(0) < self.limits.connections_per_peer
    }
}

/// The gate of one endpoint; hands out permits that count until dropped.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Mutex<Counts>>);

/// What to do with a first packet.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Start the handshake; it counts as half-open while the permit lives.
    Handshake(HalfOpen),
    /// Ask for the address to be proven first.
    ProveAddress,
    /// Too many already.
    Refuse,
}

/// A handshake in progress.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    gate: Gate,
    address: IpAddr,
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Slot {
    gate: Gate,
    peer: NodeId,
}

impl Gate {
    pub(crate) fn new(tuning: &Tuning) -> Self {
        Self(Arc::new(Mutex::new(Counts {
            limits: Limits {
                half_open: tuning.max_half_open,
                half_open_per_address: tuning.max_half_open_per_address,
                retry_above: tuning.retry_above,
                connections: tuning.max_connections,
                connections_per_peer: tuning.max_connections_per_peer,
            },
            half_open: 0,
            by_address: HashMap::new(),
            connections: 0,
            by_peer: HashMap::new(),
        })))
    }

    /// A first packet from `address`; `proven` if the sender has shown that it receives there.
    pub(crate) fn enter(&self, address: IpAddr, proven: bool) -> Entry {
        let address = accountable(address);
        let mut counts = self.lock();
        match counts.judge(address, proven) {
            Verdict::Refuse => Entry::Refuse,
            Verdict::ProveAddress => Entry::ProveAddress,
            Verdict::Handshake => {
                counts.half_open += 1;
                *counts.by_address.entry(address).or_default() += 1;
                Entry::Handshake(HalfOpen { gate: self.clone(), address })
            }
        }
    }

    /// A peer that has proved its key; `None` if it, or everybody together, has too many connections.
    pub(crate) fn stay(&self, peer: NodeId) -> Option<Slot> {
        let mut counts = self.lock();
        if !counts.may_stay(peer) {
            return None;
        }
        counts.connections += 1;
        *counts.by_peer.entry(peer).or_default() += 1;
        Some(Slot { gate: self.clone(), peer })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing under the lock can panic half-way; a poisoned count is still a count.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        let mut counts = self.gate.lock();
        counts.half_open -= 1;
        leave(&mut counts.by_address, &self.address);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.gate.lock();
        counts.connections -= 1;
        leave(&mut counts.by_peer, &self.peer);
    }
}

fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Whoever has one IPv6 address has its /64.
fn accountable(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate::new(&Tuning {
            max_half_open: 6,
            max_half_open_per_address: 4,
            retry_above: 2,
            max_connections: 3,
            max_connections_per_peer: 2,
            ..Tuning::default()
        })
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn strangers_prove_their_address_under_load_and_are_refused_beyond_it() {
        let gate = gate();
        let mut permits = Vec::new();
        for _ in 0..2 {
            let Entry::Handshake(permit) = gate.enter(address(1), false) else { panic!("refused early") };
            permits.push(permit);
        }
        assert!(matches!(gate.enter(address(1), false), Entry::ProveAddress));
        for _ in 0..2 {
            let Entry::Handshake(permit) = gate.enter(address(1), true) else { panic!("refused early") };
            permits.push(permit);
        }
        assert!(matches!(gate.enter(address(1), true), Entry::Refuse), "one address has its own limit");
        for _ in 0..2 {
            let Entry::Handshake(permit) = gate.enter(address(2), true) else { panic!("refused early") };
            permits.push(permit);
        }
        assert!(matches!(gate.enter(address(3), true), Entry::Refuse), "all together have a limit");
        drop(permits);
        assert!(matches!(gate.enter(address(1), false), Entry::Handshake(_)));
        assert!(gate.lock().by_address.is_empty(), "no entry outlives its permits");
    }

    #[test]
    fn one_peer_has_a_limit_and_all_together() {
        let gate = gate();
        let (a, b) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let mut slots = vec![gate.stay(a).expect("first"), gate.stay(a).expect("second")];
        assert!(gate.stay(a).is_none());
        slots.push(gate.stay(b).expect("another peer"));
        assert!(gate.stay(b).is_none(), "full");
        assert!(matches!(gate.enter(address(1), true), Entry::Refuse));
        slots.clear();
        assert!(gate.stay(a).is_some());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let one: IpAddr = "2001:db8::1".parse().expect("literal");
        let two: IpAddr = "2001:db8::ffff:2".parse().expect("literal");
        let far: IpAddr = "2001:db8:0:1::1".parse().expect("literal");
        assert_eq!(accountable(one), accountable(two));
        assert_ne!(accountable(one), accountable(far));
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("literal");
        assert_eq!(accountable(mapped), address(1));
    }
}
