//! Bootstrap targets as users write them: `NODEID@HOST:PORT`, or `HOST:PORT` where nobody can stand in between.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use proto::NodeId;
use proto_transport::Target;

/// A peer to begin with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bootstrap {
    node: Option<NodeId>,
    host: String,
    port: u16,
}

/// Why a bootstrap target can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// Not of the form `[NODEID@]HOST:PORT`.
    #[error("`{0}` is not a bootstrap address: write NODEID@HOST:PORT, or HOST:PORT on this machine")]
    Syntax(String),
    /// The host has no address.
    #[error(
        "can't resolve {host}: {why}; check the spelling and this machine's DNS, or write its IP address"
    )]
    Resolve {
        /// The host.
        host: String,
        /// The system's words.
        why: String,
    },
    /// A bare address that is not on this machine.
    #[error(
        "{0} is not on this machine: write NODEID@{0} so that nobody can stand in for it, or accept whoever answers \
         with --trust-first"
    )]
    NeedsNodeId(SocketAddr),
}

impl Bootstrap {
    /// Who is expected there, if said.
    pub const fn node(&self) -> Option<NodeId> {
        self.node
    }

    /// Resolves the host. A bare address is accepted on loopback, or anywhere with `trust_first`.
    pub async fn resolve(&self, trust_first: bool) -> Result<Target, BootstrapError> {
        let resolve = |why: String| BootstrapError::Resolve { host: self.host.clone(), why };
        let mut found = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|error| resolve(error.to_string()))?
            .collect::<Vec<_>>();
        // Sockets are IPv4 unless told otherwise.
        found.sort_by_key(SocketAddr::is_ipv6);
        let addr = *found.first().ok_or_else(|| resolve("no address".into()))?;
        match self.node {
            Some(node) => Ok(Target::node(node, addr)),
            None if trust_first || is_loopback(addr.ip()) => Ok(Target::trust_first(addr)),
            None => Err(BootstrapError::NeedsNodeId(addr)),
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

impl FromStr for Bootstrap {
    type Err = BootstrapError;

    fn from_str(text: &str) -> Result<Self, BootstrapError> {
        let syntax = || BootstrapError::Syntax(text.chars().take(120).collect());
        let (node, address) = match text.split_once('@') {
            Some((node, address)) => (Some(node.parse().map_err(|_| syntax())?), address),
            None => (None, text),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(syntax)?;
        let port: u16 = port.parse().map_err(|_| syntax())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || port == 0 || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(syntax());
        }
        Ok(Self { node, host: host.into(), port })
    }
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = self.node {
            write!(f, "{node}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_parse_and_print() {
        let id = NodeId::from_bytes([7; 32]);
        for text in [&format!("{id}@example.org:7401"), "127.0.0.1:7401", "[::1]:7401", "localhost:1"] {
            assert_eq!(text.parse::<Bootstrap>().unwrap().to_string(), *text);
        }
        for bad in ["", "host", "host:0", ":1", "host:99999", "xyz@host:1", "a b:1"] {
            assert!(bad.parse::<Bootstrap>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_bare_address_is_trusted_on_loopback_only() {
        let bare = |text: &str| text.parse::<Bootstrap>().unwrap();
        assert!(bare("127.0.0.1:7401").resolve(false).await.is_ok());
        let error = bare("192.0.2.1:7401").resolve(false).await.unwrap_err();
        assert!(error.to_string().contains("--trust-first"), "{error}");
        assert!(bare("192.0.2.1:7401").resolve(true).await.is_ok());
        let id = NodeId::from_bytes([7; 32]);
        assert!(bare(&format!("{id}@192.0.2.1:7401")).resolve(false).await.is_ok());
    }
}
