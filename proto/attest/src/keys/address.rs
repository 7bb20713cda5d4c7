//! The 20 bytes that name a secp256k1 key, as Ethereum derives and writes them.

use std::fmt;
use std::str::FromStr;

use crate::eip712::keccak256;

/// The last 20 bytes of the keccak-256 of a public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address([u8; 20]);

impl Address {
    /// Nobody: no key has it.
    pub const ZERO: Self = Self([0; 20]);

    /// Takes the 20 bytes as they are.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    pub(super) fn of(key: &secp256k1::PublicKey) -> Self {
        let hash = keccak256(&[&key.serialize_uncompressed()[1..]]);
        Self(std::array::from_fn(|index| hash[12 + index]))
    }
}

/// EIP-55: a digit is written in upper case where the hash of the lower-case text says so.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = hex::encode(self.0);
        let hash = keccak256(&[digits.as_bytes()]);
        let mixed = digits.bytes().enumerate().map(|(index, digit)| {
            let nibble = hash[index / 2] >> (4 * (1 - index % 2)) & 0xf;
            char::from(if nibble >= 8 { digit.to_ascii_uppercase() } else { digit })
        });
        write!(f, "0x{}", mixed.collect::<String>())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseAddressError {
    /// Not `0x` and 40 hexadecimal digits.
    #[error("`{0}` is not an address: write 0x and 40 hexadecimal digits")]
    Syntax(String),
    /// Upper and lower case, but not as EIP-55 has them: most likely a typing error.
    #[error("`{0}` has a wrong checksum (the case of its digits, EIP-55): check it against its source")]
    Checksum(String),
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let told = || text.chars().take(80).collect::<String>();
        let syntax = || ParseAddressError::Syntax(told());
        let digits = text.strip_prefix("0x").ok_or_else(syntax)?;
        let mut bytes = [0; 20];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| syntax())?;
        let address = Self(bytes);
        let one_case = !digits.contains(|digit: char| digit.is_ascii_uppercase())
            || !digits.contains(|digit: char| digit.is_ascii_lowercase());
        if one_case || address.to_string() == text {
            Ok(address)
        } else {
            Err(ParseAddressError::Checksum(told()))
        }
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_eip_55_has_them() {
        for text in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(text.to_lowercase().parse(), Ok(address));
        }
    }

    #[test]
    fn a_mistyped_address_is_refused() {
        let wrong_case = "0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
        assert!(matches!(wrong_case.parse::<Address>(), Err(ParseAddressError::Checksum(_))));
        for bad in [
            "",
            "0x",
            "5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAe",
        ] {
            assert!(matches!(bad.parse::<Address>(), Err(ParseAddressError::Syntax(_))), "{bad}");
        }
    }
}
