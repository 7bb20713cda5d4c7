//! The UDP socket: bound, with enlarged kernel buffers. Owns the errors of binding; faults are `testing`'s.

use std::{io, net::SocketAddr, net::UdpSocket, sync::Arc};

use socket2::{Domain, Protocol, Socket, Type};

/// Why an endpoint could not be made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BindError {
    /// Another process has the port.
    #[error(
        "UDP port {} on {} is in use: stop the process that holds it, or listen on another port (0 takes any free one)",
        .addr.port(), .addr.ip()
    )]
    Busy {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// A port below 1024 without the right to it, or a filter forbids it.
    #[error("not allowed to listen on UDP {addr}: use a port from 1024 on")]
    NotAllowed {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// The address is not one of this machine's.
    #[error("{} is no address of this machine: listen on 0.0.0.0, [::] or one of its own", .addr.ip())]
    NotOurs {
        /// What was asked for.
        addr: SocketAddr,
    },
    /// Anything else the system says.
    #[error("cannot listen on UDP {addr}: {cause}")]
    Io {
        /// What was asked for.
        addr: SocketAddr,
        /// The system's words.
        cause: Arc<io::Error>,
    },
    /// TLS could not be configured; a defect of this build.
    #[error("cannot configure TLS: {0}")]
    Tls(String),
}

impl BindError {
    pub(crate) fn from_io(addr: SocketAddr, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::AddrInUse => Self::Busy { addr },
            io::ErrorKind::PermissionDenied => Self::NotAllowed { addr },
            io::ErrorKind::AddrNotAvailable => Self::NotOurs { addr },
            _ => Self::Io { addr, cause: Arc::new(cause) },
        }
    }

    /// Whether another port may succeed where this one did not.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}

/// Binds and enlarges the buffers as far as the kernel lets us.
pub(crate) fn bind(addr: SocketAddr, buffer_bytes: usize) -> Result<UdpSocket, BindError> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() && addr.ip().is_unspecified() {
            // One socket for both families; a kernel without dual stack serves IPv6 alone.
            let _ = socket.set_only_v6(false);
        }
        // Refusals are no failure: smaller buffers lose more packets, and are logged below.
        let _ = socket.set_recv_buffer_size(buffer_bytes);
        let _ = socket.set_send_buffer_size(buffer_bytes);
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        Ok(socket)
    };
    let socket = open().map_err(|cause| BindError::from_io(addr, cause))?;
    // Linux reports twice what it grants, the other half being its own bookkeeping.
    let granted = socket.recv_buffer_size().unwrap_or(0);
    if granted < buffer_bytes {
        tracing::info!(
            granted,
            wanted = buffer_bytes,
            "small UDP buffers lose packets under bulk load; raise net.core.rmem_max and net.core.wmem_max"
        );
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_named_with_the_cure() {
        let first = bind("127.0.0.1:0".parse().expect("literal"), 1 << 20).expect("any free port");
        let addr = first.local_addr().expect("bound");
        let error = bind(addr, 1 << 20).expect_err("taken");
        assert!(error.is_busy());
        let text = error.to_string();
        assert!(text.contains(&addr.port().to_string()) && text.contains("another port"), "{text}");
    }

    #[test]
    fn a_foreign_address_is_named() {
        let error = bind("192.0.2.1:0".parse().expect("literal"), 1 << 20).expect_err("TEST-NET");
        assert!(matches!(error, BindError::NotOurs { .. }), "{error}");
    }
}
