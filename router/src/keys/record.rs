//! Keys as they are kept. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a client sends: `ll-` and 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Names a key in lists and logs: the beginning of its hash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

/// How much a key may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyLimits {
    /// Requests a minute; `None` for any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, prompts and answers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Requests at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
}

/// A key without its secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// Its name in lists.
    pub id: KeyId,
    /// What its owner calls it.
    pub name: String,
    /// BLAKE3 of the secret, hexadecimal.
    pub hash: String,
    /// Seconds since 1970.
    pub created_unix_s: u64,
    /// From then on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_unix_s: Option<u64>,
    /// How much it may use.
    #[serde(default)]
    pub limits: KeyLimits,
}

/// All keys of a router.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySet {
    /// In the order they were made.
    pub keys: Vec<KeyRecord>,
}

/// What a key has used so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyUsage {
    /// Requests that were answered.
    pub requests: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
}

/// Why the set can't be changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeySetError {
    /// Nobody has that name.
    #[error("there is no key {0}: `router keys list` shows them all")]
    Unknown(String),
    /// Two keys begin like that.
    #[error("{0} stands for several keys: give more of the id")]
    Ambiguous(String),
    /// As many as may be.
    #[error("there are {MAX_KEYS} keys, as many as may be: revoke some, then `router keys prune`")]
    Full,
    /// A name that can't be shown.
    #[error("a key's name has 1 to {MAX_NAME} characters and no control characters")]
    Name,
}

/// They are read into memory and searched by hash.
const MAX_KEYS: usize = 10_000;
const MAX_NAME: usize = 64;
const PREFIX: &str = "ll-";

impl Secret {
    /// From random bytes.
    pub fn of_random(bytes: [u8; 32]) -> Self {
        Self(format!("{PREFIX}{}", blake3::Hash::from_bytes(bytes).to_hex()))
    }

    /// As a client sent it; anything else is no key.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX)?;
        let lower = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        (digits.len() == 64 && digits.as_bytes().iter().all(lower)).then(|| Self(text.to_owned()))
    }

    /// To show it once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn hash(&self) -> String {
        blake3::hash(self.0.as_bytes()).to_hex().to_string()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl KeyId {
    /// As lists show it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl KeyRecord {
    /// Whether it is served.
    pub const fn is_valid(&self) -> bool {
        self.revoked_unix_s.is_none()
    }
}

impl KeySet {
    /// Adds a key.
    pub fn create(
        &mut self,
        secret: &Secret,
        name: &str,
        now: u64,
        limits: KeyLimits,
    ) -> Result<KeyId, KeySetError> {
        let count = name.chars().count();
        if count == 0 || count > MAX_NAME || name.chars().any(char::is_control) {
            return Err(KeySetError::Name);
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(KeySetError::Full);
        }
        let hash = secret.hash();
        let id = KeyId(hash[..ID_DIGITS].to_owned());
        let record = KeyRecord {
            id: id.clone(),
            name: name.to_owned(),
            hash,
            created_unix_s: now,
            revoked_unix_s: None,
            limits,
        };
        self.keys.push(record);
        Ok(id)
    }

    /// Refuses a key from now on. Revoking it again changes nothing.
    pub fn revoke(&mut self, which: &str, now: u64) -> Result<&KeyRecord, KeySetError> {
        let key = self.named(which)?;
        key.revoked_unix_s.get_or_insert(now);
        Ok(key)
    }

    /// Changes how much a key may use.
    pub fn limit(&mut self, which: &str, limits: KeyLimits) -> Result<&KeyRecord, KeySetError> {
        let key = self.named(which)?;
        key.limits = limits;
        Ok(key)
    }

    /// Forgets keys that were revoked; gives their number.
    pub fn prune(&mut self) -> usize {
        let before = self.keys.len();
        self.keys.retain(KeyRecord::is_valid);
        before - self.keys.len()
    }

    /// The key of a secret, revoked or not. By hash: what is compared is no secret.
    pub fn find(&self, secret: &Secret) -> Option<&KeyRecord> {
        let hash = secret.hash();
        self.keys.iter().find(|key| key.hash == hash)
    }

    fn named(&mut self, which: &str) -> Result<&mut KeyRecord, KeySetError> {
        let named = |key: &KeyRecord| key.name == which || (which.len() >= 4 && key.id.0.starts_with(which));
        let mut found = self.keys.iter_mut().filter(|key| named(key));
        match (found.next(), found.next()) {
            (Some(key), None) => Ok(key),
            (None, _) => Err(KeySetError::Unknown(which.to_owned())),
            (Some(_), Some(_)) => Err(KeySetError::Ambiguous(which.to_owned())),
        }
    }
}

/// Collisions are as good as impossible among ten thousand.
const ID_DIGITS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_secret_and_named_by_its_id_or_name() {
        let mut set = KeySet::default();
        let secrets = [1, 2].map(|byte| Secret::of_random([byte; 32]));
        let id = set.create(&secrets[0], "laptop", 5, KeyLimits::default()).unwrap();
        set.create(&secrets[1], "phone", 6, KeyLimits::default()).unwrap();
        let sent = Secret::parse(secrets[0].reveal()).unwrap();
        assert_eq!(set.find(&sent).unwrap().id, id);
        assert_eq!(set.find(&Secret::of_random([3; 32])), None);
        set.revoke(&id.as_str()[..6], 9).unwrap();
        assert!(!set.find(&sent).unwrap().is_valid());
        set.revoke("laptop", 20).unwrap();
        assert_eq!(set.find(&sent).unwrap().revoked_unix_s, Some(9));
        assert_eq!(set.revoke("nobody", 9), Err(KeySetError::Unknown("nobody".into())));
        assert_eq!((set.prune(), set.keys.len()), (1, 1));
        let written = serde_json::to_string(&set).unwrap();
        assert!(!written.contains(secrets[1].reveal()) && !format!("{secrets:?}").contains("0202"));
    }

    #[test]
    fn what_is_no_key_is_not_looked_up() {
        for text in
            ["", "ll-", "sk-123", &format!("ll-{}", "g".repeat(64)), &format!("ll-{}", "A".repeat(64))]
        {
            assert_eq!(Secret::parse(text), None, "{text}");
        }
        let mut set = KeySet::default();
        for name in ["", "a\nb", &"x".repeat(65)] {
            assert_eq!(
                set.create(&Secret::of_random([1; 32]), name, 0, KeyLimits::default()),
                Err(KeySetError::Name)
            );
        }
    }
}
