//! TLS configuration from a node's key: mutual RFC 7250 raw ed25519 keys over TLS 1.3, nothing else. Owns the
//! cipher order, the server name and the ALPN of a dial; who the peer may be is `verifier`'s.
//!
//! No session resumption and no 0-RTT: a handshake is one round trip and 1 ms; a resumed session would
//! skip the peer's signature, and 0-RTT can be replayed.

use std::sync::{Arc, OnceLock};

use proto::{NodeId, NodeKey, handshake::ConnectionClass};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    CipherSuite, SignatureAlgorithm, SignatureScheme,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
    sign::{CertifiedKey, Signer, SigningKey},
};

use crate::verifier::{RawKeyVerifier, spki_of};

/// The TLS side of a node: made once per endpoint, cheap to dial with.
#[derive(Debug)]
pub(crate) struct Identity {
    id: NodeId,
    certified: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    alpn: Alpn,
}

/// The protocol name of a class; another one than [`ConnectionClass::alpn`] in tests only.
pub(crate) type Alpn = fn(ConnectionClass) -> &'static [u8];

/// What a dial needs, and where it leaves the id that it found.
pub(crate) struct DialCrypto {
    pub(crate) config: Arc<QuicClientConfig>,
    pub(crate) server_name: String,
    pub(crate) found: Arc<OnceLock<NodeId>>,
}

impl Identity {
    pub(crate) fn new(key: &NodeKey, alpn: Alpn) -> Self {
        let id = key.node_id();
        let signing = Arc::new(NodeSigningKey { spki: spki_of(&id), key: key.clone() });
        let certificate = CertificateDer::from(signing.spki.to_vec());
        let mut provider = rustls::crypto::ring::default_provider();
        // AES-128-GCM first: quickest with AES instructions, which every CPU that runs a model has.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        Self {
            id,
            certified: Arc::new(CertifiedKey::new(vec![certificate], signing)),
            provider: Arc::new(provider),
            alpn,
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    /// The accepting side: any peer with a key, any class of our protocol version.
    pub(crate) fn server(&self) -> Result<Arc<QuicServerConfig>, rustls::Error> {
        let verifier = RawKeyVerifier::new(None, Arc::default(), self.provider.clone());
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(OneKey(self.certified.clone())));
        config.alpn_protocols =
            ConnectionClass::ALL.into_iter().map(|class| (self.alpn)(class).to_vec()).collect();
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        let config = QuicServerConfig::try_from(config)
            .map_err(|_| rustls::Error::General("the provider lacks QUIC's initial cipher suite".into()))?;
        Ok(Arc::new(config))
    }

    /// The dialling side: one peer (or, trusting on first use, whoever answers), one class.
    pub(crate) fn client(
        &self,
        expected: Option<NodeId>,
        class: ConnectionClass,
    ) -> Result<DialCrypto, rustls::Error> {
        let found = Arc::new(OnceLock::new());
        let verifier = RawKeyVerifier::new(expected, found.clone(), self.provider.clone());
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(OneKey(self.certified.clone())));
        config.alpn_protocols = vec![(self.alpn)(class).to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_early_data = false;
        let config = QuicClientConfig::try_from(config)
            .map_err(|_| rustls::Error::General("the provider lacks QUIC's initial cipher suite".into()))?;
        Ok(DialCrypto { config: Arc::new(config), server_name: server_name(expected), found })
    }
}

/// A name per peer. TLS stacks cache by name, so two peers must never share one; a DNS label holds 63
/// characters, an id has 64 hex digits, so half of them.
fn server_name(expected: Option<NodeId>) -> String {
    use std::fmt::Write;
    expected.map_or_else(
        || "trust-first.node.invalid".to_owned(),
        |id| {
            let mut name = String::with_capacity(45);
            for byte in &id.as_bytes()[..16] {
                write!(name, "{byte:02x}").expect("writing to a String cannot fail");
            }
            name.push_str(".node.invalid");
            name
        },
    )
}

/// Shows the same raw key to every peer.
#[derive(Debug)]
struct OneKey(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for OneKey {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }
}

impl rustls::client::ResolvesClientCert for OneKey {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }
}

/// Signs TLS transcripts with the node's key, which therefore never leaves its own type. TLS prefixes what is
/// signed with 64 spaces and a context string, so no record or receipt can be mistaken for a handshake.
#[derive(Clone)]
struct NodeSigningKey {
    spki: [u8; 44],
    key: NodeKey,
}

impl SigningKey for NodeSigningKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ED25519).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.spki.as_slice()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for NodeSigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.key.sign(b"", message).to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

impl std::fmt::Debug for NodeSigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeSigningKey").finish_non_exhaustive()
    }
}
