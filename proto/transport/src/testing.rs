//! A network that loses, delays, doubles and reorders packets, or freezes, by a seed and at the test's command. It
//! stands between an endpoint and its real UDP socket, so everything above is the real thing.
//!
//! Faults apply to what the endpoint **sends** (give the other endpoint a `Faults` of its own for the other
//! direction), except [`Faults::cut_from`] and [`Faults::freeze`], which also stop what it receives.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{EcnCodepoint, RecvMeta, Transmit},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What happens to the packets towards a peer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Link {
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that a packet is held back by `reorder_by`, so that later ones overtake it.
    pub reorder: f64,
    /// For how long.
    pub reorder_by: Duration,
    /// Added to every packet.
    pub delay: Duration,
    /// Added to every packet, uniformly between zero and this; alone it reorders, too.
    pub jitter: Duration,
}

/// What has happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Packets that were to be sent.
    pub packets: u64,
    /// Of those, never sent.
    pub dropped: u64,
    /// Of those, sent twice.
    pub duplicated: u64,
    /// Of those, sent later than asked.
    pub delayed: u64,
}

/// The switchboard of one endpoint's faults. Clones are handles to the same one. Starts without any fault.
#[derive(Debug, Clone)]
pub struct Faults {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    seed: u64,
    inner: Mutex<Inner>,
    /// Something was queued earlier than what the sender of delayed packets sleeps for.
    queued: Notify,
}

#[derive(Debug)]
struct Inner {
    random: u64,
    everywhere: Link,
    towards: HashMap<SocketAddr, Link>,
    cut_to: HashSet<SocketAddr>,
    cut_from: HashSet<SocketAddr>,
    frozen: bool,
    waiting: Option<Waker>,
    later: BinaryHeap<Reverse<Later>>,
    counts: FaultCounts,
}

impl Faults {
    /// No faults yet; the same seed makes the same decisions for the same sequence of packets. Print it.
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            random: seed,
            everywhere: Link::default(),
            towards: HashMap::new(),
            cut_to: HashSet::new(),
            cut_from: HashSet::new(),
            frozen: false,
            waiting: None,
            later: BinaryHeap::new(),
            counts: FaultCounts::default(),
        };
        Self { state: Arc::new(State { seed, inner: Mutex::new(inner), queued: Notify::new() }) }
    }

    /// The seed, for the message of a failed test.
    pub fn seed(&self) -> u64 {
        self.state.seed
    }

    /// Treats packets to everybody (without a link of their own) like this.
    pub fn everywhere(&self, link: Link) {
        self.lock().everywhere = link;
    }

    /// Treats packets to one peer like this.
    pub fn towards(&self, peer: SocketAddr, link: Link) {
        self.lock().towards.insert(peer, link);
    }

    /// Nothing that we send reaches this peer; what it sends still reaches us.
    pub fn cut_to(&self, peer: SocketAddr) {
        self.lock().cut_to.insert(peer);
    }

    /// Nothing that this peer sends reaches us; what we send still reaches it.
    pub fn cut_from(&self, peer: SocketAddr) {
        self.lock().cut_from.insert(peer);
    }

    /// Ends every cut and every fault of a link.
    pub fn heal(&self) {
        let mut inner = self.lock();
        inner.everywhere = Link::default();
        inner.towards.clear();
        inner.cut_to.clear();
        inner.cut_from.clear();
    }

    /// The endpoint falls silent without closing anything, as if its process had been killed or stopped: nothing
    /// is sent, and what arrives waits in the kernel.
    pub fn freeze(&self) {
        self.lock().frozen = true;
    }

    /// Ends a freeze.
    pub fn thaw(&self) {
        let waker = {
            let mut inner = self.lock();
            inner.frozen = false;
            inner.waiting.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What has happened so far.
    pub fn counts(&self) -> FaultCounts {
        self.lock().counts
    }

    pub(crate) fn wrap(
        &self,
        socket: Arc<dyn AsyncUdpSocket>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<dyn AsyncUdpSocket> {
        tasks.spawn(send_later(self.clone(), socket.clone(), stop.clone()));
        Arc::new(FaultySocket { socket, faults: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// `SplitMix64` (Steele, Lea, Flood 2014), as a fraction in `[0, 1)`.
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// After how long each copy of this packet leaves; none if it is lost.
    fn fate(&mut self, to: SocketAddr) -> Vec<Duration> {
        self.counts.packets += 1;
        let link = self.towards.get(&to).copied().unwrap_or(self.everywhere);
        // Always the same number of draws, so that one probability does not shift the others' decisions.
        let draws: [f64; 4] = std::array::from_fn(|_| self.fraction());
        if self.frozen || self.cut_to.contains(&to) || draws[0] < link.loss {
            self.counts.dropped += 1;
            return Vec::new();
        }
        let mut after = link.delay + link.jitter.mul_f64(draws[3]);
        if draws[2] < link.reorder {
            after += link.reorder_by;
        }
        let mut copies = vec![after];
        if draws[1] < link.duplicate {
            self.counts.duplicated += 1;
            copies.push(after);
        }
        if !after.is_zero() {
            self.counts.delayed += 1;
        }
        copies
    }
}

/// A delayed packet, ordered by when it leaves, then by when it came.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Later {
    due: Instant,
    number: u64,
    to: SocketAddr,
    ecn: Option<u8>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct FaultySocket {
    socket: Arc<dyn AsyncUdpSocket>,
    faults: Faults,
}

impl AsyncUdpSocket for FaultySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for contents in transmit.contents.chunks(segment) {
            let copies = self.faults.lock().fate(transmit.destination);
            for after in copies {
                if after.is_zero() {
                    let packet = Transmit { segment_size: None, contents, ..*transmit };
                    // A full kernel buffer loses the packet here, as a network would.
                    match self.socket.try_send(&packet) {
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                        _ => {}
                    }
                } else {
                    self.queue(transmit, contents, after);
                }
            }
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        {
            let mut inner = self.faults.lock();
            if inner.frozen {
                inner.waiting = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let received = std::task::ready!(self.socket.poll_recv(cx, bufs, meta))?;
        let inner = self.faults.lock();
        for meta in meta.iter_mut().take(received).filter(|meta| inner.cut_from.contains(&meta.addr)) {
            // An empty datagram is skipped by the endpoint.
            meta.len = 0;
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl FaultySocket {
    fn queue(&self, transmit: &Transmit<'_>, contents: &[u8], after: Duration) {
        let mut inner = self.faults.lock();
        if inner.later.len() >= MAX_LATER {
            inner.counts.dropped += 1;
            return;
        }
        let number = inner.counts.packets;
        inner.later.push(Reverse(Later {
            due: Instant::now() + after,
            number,
            to: transmit.destination,
            ecn: transmit.ecn.map(|ecn| ecn as u8),
            bytes: contents.to_vec(),
        }));
        drop(inner);
        self.faults.state.queued.notify_one();
    }
}

/// Sends what is due until the endpoint stops.
async fn send_later(faults: Faults, socket: Arc<dyn AsyncUdpSocket>, stop: CancellationToken) {
    loop {
        let next = faults.lock().later.peek().map(|Reverse(later)| later.due);
        tokio::select! {
            () = stop.cancelled() => break,
            () = faults.state.queued.notified() => {}
            () = sleep_until(next) => {}
        }
        loop {
            let due = {
                let mut inner = faults.lock();
                let due = inner.later.peek().is_some_and(|Reverse(later)| later.due <= Instant::now());
                if due { inner.later.pop() } else { None }
            };
            let Some(Reverse(later)) = due else { break };
            let packet = Transmit {
                destination: later.to,
                ecn: later.ecn.and_then(EcnCodepoint::from_bits),
                contents: &later.bytes,
                segment_size: None,
                src_ip: None,
            };
            // A full kernel buffer loses the packet, as a network would.
            let _ = socket.try_send(&packet);
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Packets under way at once: 100 Mbit/s over 200 ms are 2,083 full packets; beyond it the network drops, as
/// routers do.
const MAX_LATER: usize = 4096;
