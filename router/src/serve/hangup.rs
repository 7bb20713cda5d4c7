//! Notices that a client has gone, whatever it sent before it went, and lets one that is still sending read its answer.
//!
//! hyper learns of the end of a connection by reading it, and it reads no further while a request is served and a byte
//! of the next one waits. The system knows anyway.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Watches the other side of one connection.
#[derive(Debug)]
pub(super) struct Hangup {
    /// A second handle, so that what is noticed here is not taken from whoever reads.
    watched: TcpStream,
}

impl Hangup {
    pub(super) fn of(stream: &TcpStream) -> io::Result<Self> {
        let second = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        Ok(Self { watched: TcpStream::from_std(second)? })
    }

    /// Returns when the client has closed its sending side, or the connection is broken.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(super) async fn gone(&self) {
        loop {
            // An error says that the runtime ends.
            let Ok(ready) = self.watched.ready(Interest::READABLE).await else { return };
            if ready.is_read_closed() {
                return;
            }
            // Bytes: they are hyper's. To say that there are none makes this handle wait for the system's next word.
            let _ = self
                .watched
                .try_io(Interest::READABLE, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
        }
    }

    /// Ends the connection after the last answer: takes what is still under way and drops it. Closing at once would
    /// answer those bytes with a reset, and the client, which may not have read yet, would lose its answer.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(super) async fn linger(mut self) {
        let drained = async {
            let mut dropped = vec![0; 16 << 10];
            let mut left = LINGER_BYTES;
            if self.watched.shutdown().await.is_err() {
                return;
            }
            while let Ok(read @ 1..) = self.watched.read(&mut dropped).await
                && left > 0
            {
                left = left.saturating_sub(read);
            }
        };
        // Whoever sends on and on is cut off.
        let _ = timeout(LINGER, drained).await;
    }
}

/// Long enough for a round trip or two, in which a client sees the answer and stops.
const LINGER: Duration = Duration::from_secs(1);
/// A whole body that was refused for its length, if it is no more than some times too long.
const LINGER_BYTES: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_client_that_goes_is_noticed_behind_bytes_that_nobody_reads() {
        for half in [false, true] {
            let (mut client, mut server) = pair().await;
            let hangup = Hangup::of(&server).unwrap();
            client.write_all(b"ab").await.unwrap();
            server.readable().await.unwrap();
            let mut gone = std::pin::pin!(hangup.gone());
            assert!(timeout(Duration::from_millis(50), gone.as_mut()).await.is_err(), "it is still there");
            if half {
                client.shutdown().await.unwrap();
            } else {
                drop(client);
            }
            timeout(Duration::from_secs(10), gone).await.unwrap();
            // What it sent is still to be had.
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"ab");
        }
    }
}
