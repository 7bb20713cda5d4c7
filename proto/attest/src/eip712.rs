//! EIP-712: typed data as a contract and a hardware signer hash it.
//!
//! A struct that is signed implements [`Typed`]: the text of its type, and its fields in that order. Nothing here knows
//! which structs there are.
//!
//! `digest = keccak256(0x1901 || hash(domain) || hash(struct))`, `hash(struct) = keccak256(keccak256(type) || fields)`,
//! each field a word of 32 bytes; lists and texts are hashed first. Source: EIP-712 (Bloemen, Logvinov, Evans 2017).

use sha3::{Digest as _, Keccak256};

use crate::{Address, Digest};

/// A struct that can be signed.
pub trait Typed {
    /// `encodeType`: `Name(type field,...)`, then the types of the structs in it by name, without spaces.
    const TYPE: &'static str;

    /// Writes the fields in the order of [`TYPE`](Self::TYPE).
    fn write(&self, words: &mut Words);
}

/// What signatures hold for: no signature is one for another domain too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Domain {
    /// What is signed there.
    pub name: &'static str,
    /// Of which version.
    pub version: &'static str,
    /// The chain, for what a contract pays on.
    pub chain_id: Option<u64>,
    /// The contract that pays.
    pub contract: Option<Address>,
}

/// The domain of everything that is signed off any chain: opens, receipts, bindings, verdicts. The same receipt may be
/// shown to contracts on several chains, so it names none.
pub const RECEIPTS: Domain =
    Domain { name: "Layerlane receipts", version: "1", chain_id: None, contract: None };

/// Encoded fields of a struct, 32 bytes each.
#[derive(Debug, Default)]
pub struct Words(Vec<u8>);

impl Words {
    /// A `bytes32`.
    pub fn bytes32(&mut self, value: &[u8; 32]) {
        self.0.extend_from_slice(value);
    }

    /// A `uint8` to `uint128`.
    pub fn uint(&mut self, value: impl Into<u128>) {
        self.0.extend_from_slice(&[0; 16]);
        self.0.extend_from_slice(&value.into().to_be_bytes());
    }

    /// An `address`.
    pub fn address(&mut self, value: Address) {
        self.0.extend_from_slice(&[0; 12]);
        self.0.extend_from_slice(value.as_bytes());
    }

    /// A `string` or `bytes`.
    pub fn text(&mut self, value: &[u8]) {
        self.bytes32(&keccak256(&[value]));
    }

    /// A list of `uint8` to `uint128`.
    pub fn uints<T: Into<u128>>(&mut self, values: impl IntoIterator<Item = T>) {
        let mut inner = Self::default();
        values.into_iter().for_each(|value| inner.uint(value));
        self.text(&inner.0);
    }

    /// A list of structs.
    pub fn structs<'a, T: Typed + 'a>(&mut self, values: impl IntoIterator<Item = &'a T>) {
        let mut inner = Self::default();
        values.into_iter().for_each(|value| inner.bytes32(&struct_hash(value)));
        self.text(&inner.0);
    }
}

impl Domain {
    /// `hashStruct` of the domain, with the fields that it has.
    pub fn separator(&self) -> [u8; 32] {
        let mut kind = String::from("EIP712Domain(string name,string version");
        let mut words = Words::default();
        words.text(self.name.as_bytes());
        words.text(self.version.as_bytes());
        if let Some(chain) = self.chain_id {
            kind.push_str(",uint256 chainId");
            words.uint(chain);
        }
        if let Some(contract) = self.contract {
            kind.push_str(",address verifyingContract");
            words.address(contract);
        }
        kind.push(')');
        keccak256(&[&keccak256(&[kind.as_bytes()]), &words.0])
    }
}

/// `hashStruct`.
pub fn struct_hash<T: Typed>(value: &T) -> [u8; 32] {
    let mut words = Words::default();
    value.write(&mut words);
    keccak256(&[&keccak256(&[T::TYPE.as_bytes()]), &words.0])
}

/// What is signed.
pub fn digest<T: Typed>(domain: Domain, value: &T) -> Digest {
    Digest::from_bytes(keccak256(&[&[0x19, 0x01], &domain.separator(), &struct_hash(value)]))
}

/// Keccak-256 of the parts one after another.
pub(crate) fn keccak256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Keccak256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of EIP-712.
    struct Person(&'static str, [u8; 20]);
    struct Mail(Person, Person, &'static str);

    impl Typed for Person {
        const TYPE: &'static str = "Person(string name,address wallet)";

        fn write(&self, words: &mut Words) {
            words.text(self.0.as_bytes());
            words.address(Address::from_bytes(self.1));
        }
    }

    impl Typed for Mail {
        const TYPE: &'static str =
            "Mail(Person from,Person to,string contents)Person(string name,address wallet)";

        fn write(&self, words: &mut Words) {
            words.bytes32(&struct_hash(&self.0));
            words.bytes32(&struct_hash(&self.1));
            words.text(self.2.as_bytes());
        }
    }

    #[test]
    fn the_example_of_the_standard_comes_out() {
        let domain = Domain {
            name: "Ether Mail",
            version: "1",
            chain_id: Some(1),
            contract: Some(Address::from_bytes([0xcc; 20])),
        };
        let domain = Domain { contract: "0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC".parse().ok(), ..domain };
        let wallet = |text: &str| *text.parse::<Address>().unwrap().as_bytes();
        let mail = Mail(
            Person("Cow", wallet("0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826")),
            Person("Bob", wallet("0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB")),
            "Hello, Bob!",
        );
        assert_eq!(
            digest(domain, &mail).to_string(),
            "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"
        );
    }
}
