//! secp256k1 keys, for what a contract may have to judge: the operator's (stake, payout, consent) and the receipt key
//! (hot, rotatable), with the addresses that name them and their signatures.
//!
//! The node's ed25519 key is [`proto::NodeKey`]; [`binding`] ties the three together. Does not own files or prompts.

mod address;
mod binding;
mod signature;

pub use address::{Address, ParseAddressError};
pub use binding::{BindingError, KeyBinding, SignedBinding, VerifiedBinding};
pub use signature::{RecoverableSignature, SIGNATURE_BYTES, SignatureError};

use std::fmt;

use secp256k1::SecretKey;

use crate::Digest;

/// Bytes that are no secret key: zero, or not below the group's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a secp256k1 secret key")]
pub struct KeyError;

/// A secret that stays where it is in memory and is overwritten on drop.
struct Secret(Box<SecretKey>);

impl Secret {
    fn new(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        SecretKey::from_secret_bytes(*bytes).map(|key| Self(Box::new(key))).map_err(|_| KeyError)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.non_secure_erase();
    }
}

macro_rules! secret_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name {
            secret: Secret,
            address: Address,
        }

        impl $name {
            /// Takes a 32-byte secret (SEC 1), which the caller wipes.
            pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
                let secret = Secret::new(bytes)?;
                let address = Address::of(&secp256k1::PublicKey::from_secret_key(&secret.0));
                Ok(Self { secret, address })
            }

            /// The secret, for a key file or a backup; the caller wipes it.
            pub fn secret_bytes(&self) -> [u8; 32] {
                self.secret.0.to_secret_bytes()
            }

            /// The public name.
            pub const fn address(&self) -> Address {
                self.address
            }

            /// Signs a digest. Deterministic (RFC 6979), so that signing twice tells nothing of the key.
            pub fn sign(&self, digest: &Digest) -> RecoverableSignature {
                RecoverableSignature::sign(digest, &self.secret.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.address).finish()
            }
        }
    };
}

secret_key!(
    /// Whose node it is: stake, payout, consent to bindings. May live on a hardware signer instead: only its EIP-712
    /// signature over [`KeyBinding`] is ever needed.
    OperatorKey
);
secret_key!(
    /// Signs receipts and acknowledgements on a node, and opens and evidence on a router. `Debug` shows the address.
    ReceiptKey
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_show_the_secret() {
        let key = ReceiptKey::from_bytes(&[0x77; 32]).unwrap();
        let shown = format!("{key:?}");
        assert!(!shown.contains("7777") && shown.contains("0x"), "{shown}");
    }

    #[test]
    fn no_secret_is_refused() {
        assert_eq!(OperatorKey::from_bytes(&[0; 32]).unwrap_err(), KeyError);
        assert_eq!(OperatorKey::from_bytes(&[255; 32]).unwrap_err(), KeyError);
    }
}
