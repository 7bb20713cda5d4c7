//! The TCP side: a bounded number of connections, HTTP/1 over each with deadlines, a graceful end and a cut.
//!
//! It knows nothing of what is served.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{HttpLimits, Listen};
use super::hangup::Hangup;

/// A running listener.
#[derive(Debug)]
pub(super) struct Listener {
    addr: SocketAddr,
    tasks: TaskTracker,
    /// Closes the port and every connection once its answer is out.
    finish: CancellationToken,
    /// Ends everything.
    cut: CancellationToken,
}

/// The API's address can't be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program has the port.
    #[error(
        "address {addr} is in use by another program; stop that one, or choose another with --listen ADDR \
         (port 0 takes a free one)"
    )]
    Busy {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// The address cannot be opened for another reason.
    #[error("open address {addr}: {source}; choose another with --listen ADDR")]
    Unusable {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl Listener {
    /// Opens the port and serves `app` from then on.
    pub(super) async fn bind(
        listen: Listen,
        app: axum::Router,
        limits: HttpLimits,
    ) -> Result<Self, ListenError> {
        let listener = open(listen).await?;
        let addr =
            listener.local_addr().map_err(|source| ListenError::Unusable { addr: listen.addr(), source })?;
        let (tasks, finish, cut) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let accepting = accept(listener, app, limits, tasks.clone(), finish.clone(), cut.clone());
        tasks.spawn(accepting);
        Ok(Self { addr, tasks, finish, cut })
    }

    pub(super) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the port, lets answers under way go out for `patience`, cuts the rest, and waits for it.
    pub(super) async fn shutdown(self, patience: Duration) {
        self.finish.cancel();
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

async fn open(listen: Listen) -> Result<TcpListener, ListenError> {
    let wanted = listen.addr();
    let mut busy = ListenError::Busy { addr: wanted };
    let tries = if matches!(listen, Listen::OrNextFree(_)) { PORTS_TRIED } else { 1 };
    for step in 0..tries {
        let Some(port) = wanted.port().checked_add(step) else { break };
        let addr = SocketAddr::new(wanted.ip(), port);
        match TcpListener::bind(addr).await {
            Ok(listener) => return Ok(listener),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                busy = ListenError::Busy { addr: wanted };
            }
            Err(source) => return Err(ListenError::Unusable { addr, source }),
        }
    }
    Err(busy)
}

/// Several routers on a machine are a test; more should name their ports.
const PORTS_TRIED: u16 = 16;

async fn accept(
    listener: TcpListener,
    app: axum::Router,
    limits: HttpLimits,
    tasks: TaskTracker,
    finish: CancellationToken,
    cut: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = finish.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                let cut = cut.clone();
                tasks.spawn(async move {
                    refuse(&stream, cut).await;
                    drop(place);
                });
            }
            continue;
        };
        // Events are small and must not wait for each other; what the system may buffer is bounded.
        let _ = stream.set_nodelay(true);
        let _ = socket2::SockRef::from(&stream).set_send_buffer_size(limits.send_buffer);
        let (app, finish, cut) = (app.clone(), finish.clone(), cut.clone());
        tasks.spawn(async move {
            serve(stream, app, limits, finish, cut).await;
            drop(slot);
        });
    }
}

/// Accepting fails when the process is out of file descriptors: trying at once again would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections too many that are told so at once; more are closed without a word.
const REFUSALS: usize = 64;

/// Tells a connection too many that it is one, and gives it a moment to hear it.
async fn refuse(stream: &TcpStream, cut: CancellationToken) {
    let Ok(hangup) = Hangup::of(stream) else { return };
    // Not by `try_write`, which asks a reactor that has not heard of this socket yet. Its buffer takes these few bytes.
    if socket2::SockRef::from(stream).send(TOO_MANY.as_bytes()).is_err() {
        return;
    }
    tokio::select! {
        () = hangup.linger() => {}
        () = cut.cancelled() => {}
    }
}

/// The answer to a connection too many.
const TOO_MANY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 135\r\n\r\n\
    {\"error\":{\"message\":\"too many connections; reuse connections\",\"type\":\"server_error\",\"param\":null,\
    \"code\":\"busy\",\"retry_after_ms\":1000}}\n";

/// One connection from its first byte to its last.
async fn serve(
    stream: TcpStream,
    app: axum::Router,
    limits: HttpLimits,
    finish: CancellationToken,
    cut: CancellationToken,
) {
    let hangup = match Hangup::of(&stream) {
        Ok(hangup) => hangup,
        Err(error) => return tracing::warn!(%error, "watch a connection"),
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .max_buf_size(limits.buffer_bytes)
        .max_headers(limits.headers)
        .serve_connection(
            TokioIo::new(Watched::new(stream, limits.write_stall)),
            TowerToHyperService::new(app),
        );
    let mut connection = std::pin::pin!(connection);
    let mut finishing = false;
    loop {
        tokio::select! {
            // What is ready goes out before the client's going is looked at: it may only have closed its sending side.
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                break;
            }
            () = finish.cancelled(), if !finishing => {
                finishing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = cut.cancelled() => return,
            () = hangup.gone() => return,
        }
    }
    tokio::select! {
        () = hangup.linger() => {}
        () = cut.cancelled() => {}
    }
}

/// A stream whose writes fail when the peer takes nothing for too long.
#[derive(Debug)]
struct Watched {
    stream: TcpStream,
    stall: Duration,
    /// Runs only while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    const fn new(stream: TcpStream, stall: Duration) -> Self {
        Self { stream, stall, waiting: None }
    }

    fn watch(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let stall = self.stall;
        let waiting =
            self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + stall)));
        if waiting.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
