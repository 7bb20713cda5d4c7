//! A small HTTP/1.1 client for tests and measurements: one request a connection, answers read as they come.
//!
//! It does what it is told, bad requests included, and hides nothing: timeouts and retries are the caller's.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// An answer whose head has come.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    headers: Vec<(String, String)>,
    stream: TcpStream,
    /// Read and not yet taken.
    buffer: BytesMut,
    left: Left,
}

/// What is left of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    Bytes(usize),
    /// Of the present chunk.
    Chunk(usize),
    NextChunk,
    UntilClosed,
    Nothing,
}

/// One server-sent event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its data.
    pub data: String,
}

/// POSTs a JSON object and waits for the answer's head.
pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Result<Answer> {
    send(address, &post_bytes(address, path, body)).await
}

/// The same through a socket that keeps as little as the system allows of what is not read yet.
pub async fn post_with_little_room(address: SocketAddr, path: &str, body: &Value) -> Result<Answer> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_recv_buffer_size(1)?;
    let stream = socket.connect(address).await.with_context(|| format!("connect to {address}"))?;
    send_over(stream, &post_bytes(address, path, body)).await
}

fn post_bytes(address: SocketAddr, path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// GETs a path and waits for the answer's head.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    send(address, head.as_bytes()).await
}

/// Sends these bytes, whatever they are, and waits for an answer's head.
pub async fn send(address: SocketAddr, bytes: &[u8]) -> Result<Answer> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    send_over(stream, bytes).await
}

async fn send_over(mut stream: TcpStream, bytes: &[u8]) -> Result<Answer> {
    stream.set_nodelay(true)?;
    stream.write_all(bytes).await.context("send the request")?;
    Answer::read(stream).await
}

impl Answer {
    /// Reads an answer's head.
    pub async fn read(mut stream: TcpStream) -> Result<Self> {
        let mut buffer = BytesMut::with_capacity(4096);
        let end = loop {
            if let Some(end) = find(&buffer, b"\r\n\r\n") {
                break end;
            }
            ensure!(buffer.len() < MAX_HEAD, "the head is too long");
            ensure!(stream.read_buf(&mut buffer).await? > 0, "closed before the head's end: {buffer:?}");
        };
        let head = String::from_utf8(buffer.split_to(end).to_vec()).context("read the head")?;
        buffer.advance(4);
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .with_context(|| format!("no status in {head:?}"))?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Self { status, headers, stream, buffer, left: Left::UntilClosed };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.left = Left::NextChunk;
        } else if let Some(length) = answer.header("content-length") {
            answer.left = Left::Bytes(length.parse().context("read the length")?);
        }
        Ok(answer)
    }

    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The next bytes of the body; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<BytesMut>> {
        loop {
            match self.left {
                Left::Nothing | Left::Bytes(0) => return Ok(None),
                Left::Bytes(left) if !self.buffer.is_empty() => {
                    let part = self.buffer.split_to(left.min(self.buffer.len()));
                    self.left = Left::Bytes(left - part.len());
                    return Ok(Some(part));
                }
                Left::Chunk(0) if self.buffer.len() >= 2 => {
                    self.buffer.advance(2);
                    self.left = Left::NextChunk;
                }
                Left::Chunk(left @ 1..) if !self.buffer.is_empty() => {
                    let part = self.buffer.split_to(left.min(self.buffer.len()));
                    self.left = Left::Chunk(left - part.len());
                    return Ok(Some(part));
                }
                Left::NextChunk if find(&self.buffer, b"\r\n").is_some() => {
                    let end = find(&self.buffer, b"\r\n").context("found just now")?;
                    let line = self.buffer.split_to(end);
                    self.buffer.advance(2);
                    let size = usize::from_str_radix(std::str::from_utf8(&line)?.trim(), 16)
                        .with_context(|| format!("read a chunk's size {line:?}"))?;
                    self.left = if size == 0 { Left::Nothing } else { Left::Chunk(size) };
                }
                Left::UntilClosed if !self.buffer.is_empty() => return Ok(Some(self.buffer.split())),
                Left::UntilClosed => {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        self.left = Left::Nothing;
                    }
                }
                _ => {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        bail!("closed in the middle of the body");
                    }
                }
            }
        }
    }

    /// The whole body as text.
    pub async fn text(mut self) -> Result<String> {
        let mut body = Vec::new();
        while let Some(part) = self.next().await? {
            body.extend_from_slice(&part);
        }
        Ok(String::from_utf8(body)?)
    }

    /// The whole body as JSON.
    pub async fn json(self) -> Result<Value> {
        let text = self.text().await?;
        serde_json::from_str(&text).with_context(|| format!("read {text:?}"))
    }

    /// The body as events.
    pub fn events(self) -> Events {
        Events { answer: self, text: BytesMut::new() }
    }
}

/// A stream of events. Dropping it closes the connection.
#[derive(Debug)]
pub struct Events {
    answer: Answer,
    text: BytesMut,
}

impl Events {
    /// The next event; `None` at the end of the answer.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.ready()? {
                return Ok(Some(event));
            }
            match self.answer.next().await? {
                Some(part) => self.text.extend_from_slice(&part),
                None if self.text.is_empty() => return Ok(None),
                None => bail!("the answer ends within an event: {:?}", self.text),
            }
        }
    }

    /// Closes our side of the connection; answers may still come.
    pub async fn close_sending(&mut self) -> Result<()> {
        Ok(self.answer.stream.shutdown().await?)
    }

    /// An event that has come already.
    pub fn ready(&mut self) -> Result<Option<Event>> {
        let Some(end) = find(&self.text, b"\n\n") else { return Ok(None) };
        let block = self.text.split_to(end);
        self.text.advance(2);
        let mut event = Event { name: String::new(), data: String::new() };
        for line in std::str::from_utf8(&block)?.lines() {
            match line.split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("data", data)) => data.clone_into(&mut event.data),
                _ => bail!("no field of an event: {line:?}"),
            }
        }
        Ok(Some(event))
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Ours have a few hundred bytes.
const MAX_HEAD: usize = 64 << 10;
