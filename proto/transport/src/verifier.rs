//! Who the peer is: an ed25519 raw public key (RFC 7250), pinned to a NodeId on dial. Owns the TLS checks;
//! knows no sockets and no frames.

use std::sync::{Arc, OnceLock};

use proto::NodeId;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

/// Verifies the other side of one handshake (dial) or of all handshakes (accept).
#[derive(Debug)]
pub(crate) struct RawKeyVerifier {
    /// Only this peer will do; `None` takes any peer that proves *some* key.
    expected: Option<NodeId>,
    /// What a dial found, for the error that names both ids.
    found: Arc<OnceLock<NodeId>>,
    provider: Arc<CryptoProvider>,
}

impl RawKeyVerifier {
    pub(crate) fn new(
        expected: Option<NodeId>,
        found: Arc<OnceLock<NodeId>>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self { expected, found, provider }
    }

    fn check(&self, key: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        // A raw key has no chain; a peer that sends one speaks something else.
        if !chain.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        let id = node_id_of(key)?;
        if let Some(expected) = self.expected {
            // Set once: a handshake shows one key.
            let _ = self.found.set(id);
            if id != expected {
                return Err(CertificateError::ApplicationVerificationFailure.into());
            }
        }
        Ok(())
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if signature.scheme != SignatureScheme::ED25519 {
            return Err(CertificateError::BadSignature.into());
        }
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key.as_ref()),
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

impl ServerCertVerifier for RawKeyVerifier {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(key, chain)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(key, chain)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The NodeId in an ed25519 `SubjectPublicKeyInfo`; anything else is refused.
pub(crate) fn node_id_of(key: &CertificateDer<'_>) -> Result<NodeId, rustls::Error> {
    key.as_ref()
        .strip_prefix(ED25519_SPKI_PREFIX.as_slice())
        .and_then(|raw| <[u8; 32]>::try_from(raw).ok())
        .map(NodeId::from_bytes)
        .ok_or_else(|| CertificateError::BadEncoding.into())
}

/// The 44-byte `SubjectPublicKeyInfo` of a NodeId.
pub(crate) fn spki_of(id: &NodeId) -> [u8; 44] {
    let mut spki = [0; 44];
    spki[..12].copy_from_slice(&ED25519_SPKI_PREFIX);
    spki[12..].copy_from_slice(id.as_bytes());
    spki
}

/// `SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING (32 bytes) }` up to the key itself (RFC 8410 4).
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_spki_and_nothing_else_passes() {
        let id = NodeId::from_bytes([7; 32]);
        let spki = spki_of(&id);
        assert_eq!(node_id_of(&CertificateDer::from(spki.to_vec())).expect("own encoding"), id);
        for len in 0..spki.len() {
            assert!(node_id_of(&CertificateDer::from(spki[..len].to_vec())).is_err());
        }
        let mut long = spki.to_vec();
        long.push(0);
        assert!(node_id_of(&CertificateDer::from(long)).is_err());
        for at in 0..12 {
            let mut other = spki;
            other[at] ^= 1;
            assert!(node_id_of(&CertificateDer::from(other.to_vec())).is_err());
        }
    }
}
