//! The routing table: whom we know, by distance. Decides who gets a place; sends nothing.
//!
//! Bucket `i` holds up to [`K`] contacts that share exactly `i` leading bits with us. Only peers that we dialled,
//! whose handshake proved their id and that answered a request get in ([`Table::verified`]). A full bucket keeps
//! its old contacts (they are the likeliest to stay): a newcomer waits, the least recently seen contact is
//! pinged, and only if that fails does the newcomer take its place. Exception: a bucket that holds more than
//! [`SUBNET_CAP`] contacts of one subnet gives such a place to a newcomer of a less crowded one.

use std::time::Duration;

use proto::NodeId;
use proto::discovery::Contact;
use proto::record::DhtKey;

use super::distance::Distance;
use super::limits::{K, MAX_FAILURES, PROBE_AFTER, SUBNET_CAP, WAITING_PER_BUCKET};
use super::select::subnet_fair;
use super::subnet::Subnet;

/// The contacts of one node.
#[derive(Debug)]
pub(crate) struct Table {
    own: DhtKey,
    /// Grown to the deepest bucket in use; at most 256.
    buckets: Vec<Bucket>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Least recently seen first.
    entries: Vec<Entry>,
    /// Newest last.
    waiting: Vec<Entry>,
    probing: Option<NodeId>,
    /// When a lookup last went through here.
    touched: Duration,
}

#[derive(Debug, Clone)]
struct Entry {
    contact: Contact,
    key: DhtKey,
    subnet: Subnet,
    last_seen: Duration,
    failures: u8,
}

/// What became of a verified contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// It is new in the table.
    Inserted,
    /// It was there; now it is the most recently seen.
    Refreshed,
    /// Its bucket is full. If a contact is named, ping it: should that fail, the newcomer takes its place.
    Waiting(Option<Contact>),
    /// It is ourselves.
    Own,
}

impl Table {
    pub(crate) fn new(own: DhtKey) -> Self {
        Self { own, buckets: Vec::new() }
    }

    /// Takes note that `contact` was dialled, proved its id and answered.
    pub(crate) fn verified(&mut self, contact: Contact, now: Duration) -> Placement {
        let key = DhtKey::of_node(contact.node);
        let Some(index) = Distance::between(&self.own, &key).shared_prefix() else {
            return Placement::Own;
        };
        if self.buckets.len() <= index {
            self.buckets.resize_with(index + 1, Bucket::default);
        }
        let subnet = Subnet::of(contact.addr);
        self.buckets[index].verified(Entry { contact, key, subnet, last_seen: now, failures: 0 }, now)
    }

    /// Takes note that a request to `contact` failed. It leaves if somebody waits or after [`MAX_FAILURES`].
    /// Returns whoever moved up.
    pub(crate) fn failed(&mut self, contact: Contact) -> Option<Contact> {
        let bucket = self.bucket_of(contact.node)?;
        bucket.failed(contact)
    }

    /// The nearest contacts to `target` under the subnet cap, at most `count`, nearest first. Contacts whose
    /// last request failed are left out; `admit` may leave out more.
    pub(crate) fn closest(
        &self,
        target: &DhtKey,
        count: usize,
        admit: impl Fn(&Contact) -> bool,
    ) -> Vec<Contact> {
        let mut sorted: Vec<(Distance, &Entry)> = self
            .entries()
            .filter(|entry| entry.failures == 0 && admit(&entry.contact))
            .map(|entry| (Distance::between(target, &entry.key), entry))
            .collect();
        sorted.sort_unstable_by_key(|(distance, _)| *distance);
        let nearest = sorted.iter().map(|(_, entry)| (entry.contact, entry.subnet));
        subnet_fair(nearest, count, SUBNET_CAP)
    }

    /// Whether finding out if `contact` can be dialled is worth a handshake: it is new and would get a place, or
    /// few wait for one.
    pub(crate) fn wants(&self, contact: Contact) -> bool {
        let key = DhtKey::of_node(contact.node);
        let Some(index) = Distance::between(&self.own, &key).shared_prefix() else { return false };
        self.buckets.get(index).is_none_or(|bucket| bucket.wants(contact))
    }

    /// All contacts, furthest bucket first.
    pub(crate) fn contacts(&self) -> impl Iterator<Item = Contact> {
        self.entries().map(|entry| entry.contact)
    }

    pub(crate) fn len(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.entries.len()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.entries.is_empty())
    }

    /// Takes note that a lookup for `target` went out.
    pub(crate) fn touch(&mut self, target: &DhtKey, now: Duration) {
        let last = self.buckets.len().saturating_sub(1);
        let index = Distance::between(&self.own, target).shared_prefix().unwrap_or(last).min(last);
        if let Some(bucket) = self.buckets.get_mut(index) {
            bucket.touched = now;
        }
    }

    /// A bucket that no lookup went through for `age`, the longest neglected first. Buckets beyond the nearest
    /// neighbour are one region: refreshing the deepest stands for them.
    pub(crate) fn stale_bucket(&self, now: Duration, age: Duration) -> Option<usize> {
        self.buckets
            .iter()
            .enumerate()
            .filter(|(_, bucket)| now.saturating_sub(bucket.touched) >= age)
            .min_by_key(|(_, bucket)| bucket.touched)
            .map(|(index, _)| index)
    }

    /// Number of buckets in use: one more than the bits shared with the nearest contact.
    pub(crate) fn depth(&self) -> usize {
        self.buckets.len()
    }

    /// A key in bucket `index` with the bits after the prefix taken from `random`.
    pub(crate) fn key_in_bucket(&self, index: usize, random: [u8; 32]) -> DhtKey {
        let own = self.own.as_bytes();
        let mut bytes = random;
        for bit in 0..=index.min(255) {
            let (byte, mask) = (bit / 8, 0x80 >> (bit % 8));
            let set = (own[byte] & mask != 0) != (bit == index);
            if set {
                bytes[byte] |= mask;
            } else {
                bytes[byte] &= !mask;
            }
        }
        DhtKey::from_bytes(bytes)
    }

    fn bucket_of(&mut self, node: NodeId) -> Option<&mut Bucket> {
        let index = Distance::between(&self.own, &DhtKey::of_node(node)).shared_prefix()?;
        self.buckets.get_mut(index)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.buckets.iter().flat_map(|bucket| &bucket.entries)
    }
}

impl Bucket {
    fn verified(&mut self, entry: Entry, now: Duration) -> Placement {
        let node = entry.contact.node;
        self.waiting.retain(|held| held.contact.node != node);
        if self.probing == Some(node) {
            self.probing = None;
        }
        if let Some(at) = self.entries.iter().position(|held| held.contact.node == node) {
            self.entries.remove(at);
            self.entries.push(entry);
            return Placement::Refreshed;
        }
        if self.entries.len() < K {
            self.entries.push(entry);
            return Placement::Inserted;
        }
        if let Some(at) = self.gives_way(entry.subnet) {
            self.entries.remove(at);
            self.entries.push(entry);
            return Placement::Inserted;
        }
        self.wait(entry);
        Placement::Waiting(self.probe(now))
    }

    fn wants(&self, contact: Contact) -> bool {
        if self.entries.iter().chain(&self.waiting).any(|held| held.contact == contact) {
            return false;
        }
        self.entries.len() < K
            || self.waiting.len() < WAITING_PER_BUCKET / 2
            || self.gives_way(Subnet::of(contact.addr)).is_some()
    }

    /// The place that a newcomer of `subnet` takes from a more crowded subnet, if any.
    fn gives_way(&self, subnet: Subnet) -> Option<usize> {
        if self.crowd(subnet) >= SUBNET_CAP {
            return None;
        }
        self.entries.iter().rposition(|held| self.crowd(held.subnet) > SUBNET_CAP)
    }

    fn failed(&mut self, contact: Contact) -> Option<Contact> {
        self.waiting.retain(|held| held.contact != contact);
        if self.probing == Some(contact.node) {
            self.probing = None;
        }
        let at = self.entries.iter().position(|held| held.contact == contact)?;
        let entry = &mut self.entries[at];
        entry.failures = entry.failures.saturating_add(1);
        if self.waiting.is_empty() && entry.failures < MAX_FAILURES {
            return None;
        }
        self.entries.remove(at);
        let next = self.waiting.pop()?;
        let promoted = next.contact;
        self.entries.push(next);
        Some(promoted)
    }

    fn crowd(&self, subnet: Subnet) -> usize {
        self.entries.iter().filter(|held| held.subnet == subnet).count()
    }

    fn wait(&mut self, entry: Entry) {
        let of_subnet = |held: &&Entry| held.subnet == entry.subnet;
        if self.waiting.iter().filter(of_subnet).count() >= SUBNET_CAP {
            return;
        }
        if self.waiting.len() >= WAITING_PER_BUCKET {
            self.waiting.remove(0);
        }
        self.waiting.push(entry);
    }

    fn probe(&mut self, now: Duration) -> Option<Contact> {
        let oldest = self.entries.first()?;
        let silent = now.saturating_sub(oldest.last_seen) >= PROBE_AFTER || oldest.failures > 0;
        if self.probing.is_some() || !silent {
            return None;
        }
        self.probing = Some(oldest.contact.node);
        Some(oldest.contact)
    }
}

#[cfg(test)]
mod tests;
