//! The keys of a serving router: who a request is of, what it may use, and an account of what it used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::file::{KeyFile, KeyFileError};
use super::meter::{Exceeded, Meter};
use super::record::{KeyId, KeyRecord, KeySet, KeyUsage, Secret};

/// The keys. Clones are handles to the same ones.
#[derive(Clone, Debug)]
pub struct Keyring {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` for a router without keys.
    file: Option<KeyFile>,
    /// Requests without a key are refused even while there is no file of keys.
    required: bool,
    epoch: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    set: KeySet,
    changed: Option<(SystemTime, u64)>,
    looked: Instant,
    meter: Meter,
    /// Not written down yet.
    used: BTreeMap<KeyId, KeyUsage>,
}

/// A request that may be served. Dropping it ends it; what it used is told before.
#[derive(Debug)]
pub struct Admitted {
    /// `None` without keys.
    key: Option<KeyRecord>,
    ring: Keyring,
    used: KeyUsage,
}

/// Why a request is not served.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyRefusal {
    /// None was sent.
    #[error("an API key is needed: send it as `Authorization: Bearer KEY`")]
    Missing,
    /// Nobody has it.
    #[error("this API key is not known, or was revoked")]
    Unknown,
    /// It has used what it may.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
}

/// How soon a change of the file is seen: a revoked key is served for no longer.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a crash loses of the account.
const WRITE_EVERY: Duration = Duration::from_secs(10);

impl Keyring {
    /// Reads the file. As soon as it exists, requests without a key are refused, however many of its keys were revoked:
    /// a router does not open because its last key is gone. `required`: they are refused without a file as well.
    pub fn open(file: KeyFile, required: bool) -> Result<Self, KeyFileError> {
        let (changed, set) = (file.changed(), file.load()?);
        Ok(Self::new(Some(file), required, set, changed))
    }

    /// Without keys everybody is served.
    pub fn none() -> Self {
        Self::new(None, false, KeySet::default(), None)
    }

    fn new(file: Option<KeyFile>, required: bool, set: KeySet, changed: Option<(SystemTime, u64)>) -> Self {
        let now = Instant::now();
        let state = State { set, changed, looked: now, meter: Meter::default(), used: BTreeMap::new() };
        Self { inner: Arc::new(Inner { file, required, epoch: now, state: Mutex::new(state) }) }
    }

    /// Writes usage down every now and then until `stop`, and once more then.
    pub async fn write_now_and_then(self, stop: CancellationToken) {
        loop {
            let last = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(WRITE_EVERY) => false,
            };
            let ring = self.clone();
            let written = tokio::task::spawn_blocking(move || ring.write_usage()).await;
            if let Ok(Err(error)) = written {
                tracing::error!(%error, "write down what keys have used; tried again later");
            }
            if last {
                return;
            }
        }
    }

    /// Whether a request without a key is refused.
    pub fn is_required(&self) -> bool {
        let mut state = self.lock();
        state.look(self.inner.file.as_ref());
        self.inner.required || state.changed.is_some()
    }

    /// Takes a request by its `Authorization` header.
    pub fn admit(&self, authorization: Option<&str>) -> Result<Admitted, KeyRefusal> {
        let mut state = self.lock();
        state.look(self.inner.file.as_ref());
        if !self.inner.required && state.changed.is_none() {
            // Clients that know no better send some word to a server without keys.
            return Ok(self.admitted(None));
        }
        let sent = authorization.ok_or(KeyRefusal::Missing)?;
        let secret = sent.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let secret = secret.and_then(|(_, secret)| Secret::parse(secret.trim()));
        let key = secret.and_then(|secret| state.set.find(&secret).filter(|key| key.is_valid()).cloned());
        let key = key.ok_or(KeyRefusal::Unknown)?;
        state.meter.begin(self.inner.epoch.elapsed(), &key.id, key.limits)?;
        Ok(self.admitted(Some(key)))
    }

    /// Writes down what was used since the last time. Blocks on the disk.
    pub fn write_usage(&self) -> Result<(), KeyFileError> {
        let used = std::mem::take(&mut self.lock().used);
        if used.is_empty() {
            return Ok(());
        }
        let Some(file) = &self.inner.file else { return Ok(()) };
        let written = file.add_usage(&used);
        if written.is_err() {
            let mut state = self.lock();
            for (key, more) in used {
                state.add(&key, more);
            }
        }
        written
    }

    fn admitted(&self, key: Option<KeyRecord>) -> Admitted {
        Admitted { key, ring: self.clone(), used: KeyUsage::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reads the file again if it was changed. One that can't be read leaves the keys as they are.
    fn look(&mut self, file: Option<&KeyFile>) {
        let Some(file) = file else { return };
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        let changed = file.changed();
        if changed == self.changed {
            return;
        }
        match file.load() {
            Ok(set) => (self.set, self.changed) = (set, changed),
            Err(error) => tracing::error!(%error, "read the changed keys; those from before stay in force"),
        }
    }

    fn add(&mut self, key: &KeyId, more: KeyUsage) {
        let sum = self.used.entry(key.clone()).or_default();
        sum.requests += more.requests;
        sum.prompt_tokens += more.prompt_tokens;
        sum.completion_tokens += more.completion_tokens;
    }
}

impl Admitted {
    /// Whose it is; `None` without keys.
    pub fn key(&self) -> Option<&KeyId> {
        self.key.as_ref().map(|key| &key.id)
    }

    /// It was answered, and took so much.
    pub fn used(&mut self, prompt_tokens: u64, completion_tokens: u64) {
        self.used = KeyUsage { requests: 1, prompt_tokens, completion_tokens };
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some(key) = &self.key else { return };
        let now = self.ring.inner.epoch.elapsed();
        let mut state = self.ring.lock();
        let tokens = self.used.prompt_tokens + self.used.completion_tokens;
        state.meter.end(now, &key.id, key.limits, tokens);
        if self.used != KeyUsage::default() {
            state.add(&key.id, self.used);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;
    use crate::keys::KeyLimits;

    #[tokio::test]
    async fn a_key_counts_from_its_making_to_its_revocation_and_its_use_is_written_down() {
        pause();
        let folder = tempfile::tempdir().unwrap();
        let file = KeyFile::new(folder.path().to_owned());
        let ring = Keyring::open(file.clone(), false).unwrap();
        // Without keys everybody is served, whatever word they send.
        assert!(
            ring.admit(None).is_ok() && ring.admit(Some("Bearer sk-none")).is_ok() && !ring.is_required()
        );
        let strict = Keyring::open(file.clone(), true).unwrap();
        assert_eq!(strict.admit(None).unwrap_err(), KeyRefusal::Missing);
        assert_eq!(strict.admit(Some("Bearer sk-none")).unwrap_err(), KeyRefusal::Unknown);
        let secret = Secret::of_random([9; 32]);
        let limits = KeyLimits { concurrent: Some(1), ..KeyLimits::default() };
        let id = file.change(|set| set.create(&secret, "a", 1, limits)).unwrap();
        advance(2 * LOOK_EVERY).await;
        assert_eq!(ring.admit(None).unwrap_err(), KeyRefusal::Missing);
        let header = format!("bearer {}", secret.reveal());
        let mut first = ring.admit(Some(&header)).unwrap();
        assert_eq!(first.key(), Some(&id));
        assert!(matches!(
            ring.admit(Some(&header)),
            Err(KeyRefusal::Exceeded(Exceeded::Concurrent { limit: 1 }))
        ));
        first.used(10, 5);
        drop(first);
        drop(ring.admit(Some(&header)).unwrap());
        ring.write_usage().unwrap();
        ring.write_usage().unwrap();
        let used = KeyUsage { requests: 1, prompt_tokens: 10, completion_tokens: 5 };
        assert_eq!(file.usage().unwrap()[&id], used);
        let before = file.changed().unwrap().0;
        file.change(|set| set.revoke("a", 2).cloned()).unwrap();
        // As if both had come within one tick of the file system's clock.
        std::fs::File::open(file.path()).unwrap().set_modified(before).unwrap();
        advance(2 * LOOK_EVERY).await;
        // The last key is gone, and nobody is let in for that.
        assert_eq!(ring.admit(Some(&header)).unwrap_err(), KeyRefusal::Unknown);
        assert_eq!(ring.admit(None).unwrap_err(), KeyRefusal::Missing);
        // The file too: that opens a router that may be open, and no other one.
        std::fs::remove_file(file.path()).unwrap();
        advance(2 * LOOK_EVERY).await;
        assert!(ring.admit(None).is_ok());
        assert_eq!(strict.admit(None).unwrap_err(), KeyRefusal::Missing);
        assert_eq!(strict.admit(Some(&header)).unwrap_err(), KeyRefusal::Unknown);
    }
}
