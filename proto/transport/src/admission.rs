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
    connections_per_address: usize,
}

/// What is open now. Bounded by its own limits: every entry stands for a held permit.
#[derive(Debug)]
struct Counts {
    limits: Limits,
    half_open: usize,
    half_open_at: HashMap<IpAddr, usize>,
    connections: usize,
    connections_of: HashMap<NodeId, usize>,
    connections_at: HashMap<IpAddr, usize>,
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
        if self.half_open >= self.limits.half_open
            || count(&self.half_open_at, &address) >= self.limits.half_open_per_address
            || self.connections >= self.limits.connections
            || self.is_full_at(address)
        {
            Verdict::Refuse
        } else if self.half_open >= self.limits.retry_above && !proven {
            Verdict::ProveAddress
        } else {
            Verdict::Handshake
        }
    }

    fn may_stay(&self, peer: NodeId, address: IpAddr) -> bool {
        self.connections < self.limits.connections
            && count(&self.connections_of, &peer) < self.limits.connections_per_peer
            && !self.is_full_at(address)
    }

    /// Never true of this machine itself: whoever runs here can take our ports and memory without us, and swarms
    /// for tests and demonstrations run on loopback with hundreds of nodes.
    fn is_full_at(&self, address: IpAddr) -> bool {
        !address.is_loopback() && count(&self.connections_at, &address) >= self.limits.connections_per_address
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
    address: IpAddr,
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
                connections_per_address: tuning.max_connections_per_address,
            },
            half_open: 0,
            half_open_at: HashMap::new(),
            connections: 0,
            connections_of: HashMap::new(),
            connections_at: HashMap::new(),
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
                *counts.half_open_at.entry(address).or_default() += 1;
                Entry::Handshake(HalfOpen { gate: self.clone(), address })
            }
        }
    }

    /// A peer that has proved its key and that it receives at `address`; `None` if it, its address, or everybody
    /// together has too many connections. A connection that moves later still counts where it began.
    pub(crate) fn stay(&self, peer: NodeId, address: IpAddr) -> Option<Slot> {
        let address = accountable(address);
        let mut counts = self.lock();
        if !counts.may_stay(peer, address) {
            return None;
        }
        counts.connections += 1;
        *counts.connections_of.entry(peer).or_default() += 1;
        *counts.connections_at.entry(address).or_default() += 1;
        Some(Slot { gate: self.clone(), peer, address })
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
        leave(&mut counts.half_open_at, &self.address);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.gate.lock();
        counts.connections -= 1;
        leave(&mut counts.connections_of, &self.peer);
        leave(&mut counts.connections_at, &self.address);
    }
}

fn count<K: std::hash::Hash + Eq>(counts: &HashMap<K, usize>, key: &K) -> usize {
    counts.get(key).copied().unwrap_or(0)
}

fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Whoever has one IPv6 address has its /64. Loopback stays what it is.
fn accountable(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into()
        }
        other => other,
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
            max_connections_per_address: 8,
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
        assert!(gate.lock().half_open_at.is_empty(), "no entry outlives its permits");
    }

    #[test]
    fn one_peer_has_a_limit_and_all_together() {
        let gate = gate();
        let (a, b) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let stay = |peer| gate.stay(peer, address(1));
        let mut slots = vec![stay(a).expect("first"), stay(a).expect("second")];
        assert!(stay(a).is_none());
        slots.push(stay(b).expect("another peer"));
        assert!(stay(b).is_none(), "full");
        assert!(matches!(gate.enter(address(1), true), Entry::Refuse));
        slots.clear();
        assert!(stay(a).is_some());
    }

    #[test]
    fn one_address_with_many_keys_leaves_room_for_others() {
        let tuning = Tuning::default();
        let gate = Gate::new(&tuning);
        let peer = |number: u16| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&number.to_le_bytes());
            NodeId::from_bytes(bytes)
        };
        let flood = |from: &dyn Fn(u16) -> IpAddr| -> Vec<Slot> {
            (0..u16::MAX).take(tuning.max_connections).filter_map(|n| gate.stay(peer(n), from(n))).collect()
        };
        let v4 = flood(&|_| address(1));
        assert_eq!(v4.len(), tuning.max_connections_per_address);
        assert!(matches!(gate.enter(address(1), true), Entry::Refuse), "before its handshake costs anything");
        let v6 = flood(&|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 1, 2, 3, n]));
        assert_eq!(v6.len(), tuning.max_connections_per_address, "a /64 is one address");
        assert!(gate.stay(peer(9), address(2)).is_some(), "others are served");
        assert!(matches!(gate.enter(address(2), false), Entry::Handshake(_)));
        drop(v4);
        assert!(gate.stay(peer(9), address(1)).is_some());
        drop(v6);
        assert!(gate.lock().connections_at.is_empty(), "no entry outlives its slots");
        for local in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let local: IpAddr = local.parse().expect("literal");
            assert_eq!(flood(&|_| local).len(), tuning.max_connections, "{local}: only the common limit");
        }
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
