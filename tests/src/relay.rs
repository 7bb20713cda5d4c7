//! What lies between real processes: each node is reached through a relay of its own, which may lose packets, and by
//! which one node may be cut off from the others in one direction.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// All relays of a swarm and what they do to packets.
#[derive(Clone, Debug)]
pub struct Relays {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    chance: StdRng,
    loss: f64,
    /// Addresses whose packets reach nobody.
    mute: HashSet<SocketAddr>,
    /// Addresses that nobody's packets reach.
    deaf: HashSet<SocketAddr>,
    lost: u64,
}

impl Relays {
    /// Every packet is lost with this probability, drawn by `seed`.
    pub fn new(seed: u64, loss: f64) -> Self {
        let (mute, deaf) = (HashSet::new(), HashSet::new());
        let shared = Shared { chance: StdRng::seed_from_u64(seed), loss, mute, deaf, lost: 0 };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    /// Opens a relay; whom it leads to is said by [`Relay::lead_to`].
    pub async fn open(&self) -> Result<Relay> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.context("open a relay")?;
        Ok(Relay { socket: Arc::new(socket), relays: self.clone(), tasks: JoinSet::new() })
    }

    /// From now on nothing that this process sends arrives, though it hears everything.
    pub fn mute(&self, process: SocketAddr) {
        self.lock().mute.insert(process);
    }

    /// From now on nothing reaches this process, though all hear it.
    pub fn deafen(&self, process: SocketAddr) {
        self.lock().deaf.insert(process);
    }

    /// Packets lost so far.
    pub fn lost(&self) -> u64 {
        self.lock().lost
    }

    fn passes(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let mut shared = self.lock();
        let cut = shared.mute.contains(&from) || shared.deaf.contains(&to);
        let loss = shared.loss;
        let lost = cut || (loss > 0.0 && shared.chance.random_bool(loss));
        shared.lost += u64::from(lost);
        !lost
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One node's relay; its end is the end of what it carries.
#[derive(Debug)]
pub struct Relay {
    socket: Arc<UdpSocket>,
    relays: Relays,
    tasks: JoinSet<()>,
}

impl Relay {
    /// What the node announces.
    pub fn addr(&self) -> Result<SocketAddr> {
        self.socket.local_addr().context("ask for a relay's address")
    }

    /// Carries packets to and from the process at `target` from now on.
    pub fn lead_to(&mut self, target: SocketAddr) {
        let (front, relays) = (Arc::clone(&self.socket), self.relays.clone());
        self.tasks.spawn(async move {
            // Each peer gets a socket of its own, so that the target tells them apart. Bounded by the swarm's processes.
            let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut returning = JoinSet::new();
            let mut packet = vec![0; MAX_PACKET];
            loop {
                let Ok((bytes, peer)) = front.recv_from(&mut packet).await else { continue };
                if let Entry::Vacant(unknown) = backs.entry(peer) {
                    let Ok(back) = UdpSocket::bind("127.0.0.1:0").await else { continue };
                    let back = Arc::new(back);
                    returning.spawn(give_back(
                        Arc::clone(&back),
                        Arc::clone(&front),
                        relays.clone(),
                        peer,
                        target,
                    ));
                    unknown.insert(back);
                }
                if relays.passes(peer, target)
                    && let Some(back) = backs.get(&peer)
                {
                    // What the system does not take is lost, as on any line.
                    let _ = back.send_to(&packet[..bytes], target).await;
                }
            }
        });
    }
}

/// Carries what `target` answers back to `peer`.
async fn give_back(
    back: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    relays: Relays,
    peer: SocketAddr,
    target: SocketAddr,
) {
    let mut packet = vec![0; MAX_PACKET];
    loop {
        let Ok((bytes, _)) = back.recv_from(&mut packet).await else { continue };
        if relays.passes(target, peer) {
            let _ = front.send_to(&packet[..bytes], peer).await;
        }
    }
}

const MAX_PACKET: usize = 65_536;
