//! The serving side of the core: answers requests, within rates, and dials askers back.

use std::net::SocketAddr;

use proto::discovery::{Contact, Contacts, FindValue, MAX_PAGE, Pong, Store, StoreOutcome, Stored, Values};
use proto::record::DhtKey;

use super::counters::Rejection;
use super::limits::{K, MAX_DIAL_BACKS};
use super::message::{Request, Response};
use super::subnet::{Scope, Subnet, may_dial};
use super::{Action, Core, Now, Peer, Purpose};

impl Core {
    pub(super) fn on_request(&mut self, now: Now, peer: Peer, request: Request, actions: &mut Vec<Action>) {
        if peer.node == self.own {
            actions.push(Action::Ignore);
            return;
        }
        let port = request.listen_port();
        if !self.admitted(now, peer) {
            self.counters.reject(Rejection::RateLimited);
            actions.push(match request {
                Request::Store(_) => stored(StoreOutcome::RateLimited),
                _ => Action::Ignore,
            });
            return;
        }
        self.counters.served += 1;
        actions.push(match request {
            Request::Ping(_) => Action::Reply(Response::Pong(Pong { observed: peer.addr })),
            Request::FindNode(body) => {
                Action::Reply(Response::Contacts(Contacts { contacts: self.tell(peer, &body.target) }))
            }
            Request::FindValue(body) => Action::Reply(Response::Values(self.page(now, peer, body))),
            Request::Store(body) => stored(self.keep(now, peer, body)),
        });
        if let Some(port) = port {
            self.dial_back(now, peer, port, actions);
        }
    }

    fn admitted(&mut self, now: Now, peer: Peer) -> bool {
        let subnet = Subnet::of(peer.addr);
        let line = matches!(subnet, Subnet::Exempt(_)) || self.subnet_rates.take(subnet, now.elapsed);
        line && self.request_rates.take(peer.node, now.elapsed)
    }

    /// The nearest contacts, without the asker and without addresses of a narrower scope than its own.
    fn tell(&self, peer: Peer, target: &DhtKey) -> Vec<Contact> {
        let scope = Scope::of(peer.addr.ip());
        self.table
            .closest(target, K, |contact| contact.node != peer.node && Scope::of(contact.addr.ip()) >= scope)
    }

    fn page(&self, now: Now, peer: Peer, body: FindValue) -> Values {
        let (records, more) = self.store.page(&body.key, body.after, MAX_PAGE, now.unix_seconds);
        // Whoever reads on knows the contacts from the first page.
        let contacts = if body.after.is_none() { self.tell(peer, &body.key) } else { Vec::new() };
        Values { records: records.iter().map(|record| record.signed().clone()).collect(), more, contacts }
    }

    fn keep(&mut self, now: Now, peer: Peer, body: Store) -> StoreOutcome {
        let outcome = self.try_keep(now, peer, body);
        match outcome {
            Ok(()) => StoreOutcome::Kept,
            Err(reason) => {
                self.counters.reject(reason);
                match reason {
                    Rejection::RateLimited => StoreOutcome::RateLimited,
                    Rejection::WrongKey => StoreOutcome::WrongKey,
                    Rejection::Older => StoreOutcome::Older,
                    Rejection::Full => StoreOutcome::Full,
                    _ => StoreOutcome::Invalid,
                }
            }
        }
    }

    /// Only its signer may bring a record: so every record held costs its signer a handshake from an address
    /// that the subnet caps can count.
    fn try_keep(&mut self, now: Now, peer: Peer, body: Store) -> Result<(), Rejection> {
        if !self.store_rates.take(peer.node, now.elapsed) {
            return Err(Rejection::RateLimited);
        }
        if body.record.claimed_signer() != peer.node {
            return Err(Rejection::NotSigner);
        }
        let record =
            self.verified.verify(body.record, now.unix_seconds).map_err(|error| Rejection::from(&error))?;
        self.store.store(body.key, &record, Subnet::of(peer.addr))
    }

    /// Finds out whether an asker that says it listens can be dialled: at the address its packets come from and
    /// the port it names. So nobody can make us dial a third party.
    fn dial_back(&mut self, now: Now, peer: Peer, port: u16, actions: &mut Vec<Action>) {
        let addr = SocketAddr::new(peer.addr.ip().to_canonical(), port);
        let contact = Contact { node: peer.node, addr };
        if !self.table.wants(contact) || self.dial_backs.contains(&peer.node) {
            return;
        }
        if !may_dial(addr, peer.addr.ip()) {
            self.counters.reject(Rejection::BadContact);
            return;
        }
        if self.dial_backs.len() < MAX_DIAL_BACKS && self.dial_back_rates.take(peer.node, now.elapsed) {
            self.dial_backs.insert(peer.node);
            self.ping(contact, Purpose::DialBack, actions);
        }
    }
}

const fn stored(outcome: StoreOutcome) -> Action {
    Action::Reply(Response::Stored(Stored { outcome }))
}
