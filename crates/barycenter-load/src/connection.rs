//! HTTP/1.1 by hand: a client that costs next to nothing, so that a thousand of them measure the server and not themselves.

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection that is kept open.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A status and a head; the body was read and dropped.
pub struct Answer {
    /// Status.
    pub status: u16,
    /// The head, as text.
    pub head: String,
}

impl Answer {
    /// A header's value; names in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request and reads the whole answer.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        let answer = self.begin(request).await?;
        let length: usize = answer.header("content-length").map_or(Ok(0), str::parse)?;
        while self.buffer.len() < length {
            self.fill().await?;
        }
        self.buffer.drain(..length);
        Ok(answer)
    }

    /// Sends a request and reads the head of the answer.
    pub async fn begin(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await?;
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            self.fill().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("a status line")?;
        Ok(Answer { status, head })
    }

    /// Reads on until `text` has come; what was read before it is dropped.
    pub async fn until(&mut self, text: &[u8]) -> Result<()> {
        loop {
            if let Some(place) = find(&self.buffer, text) {
                self.buffer.drain(..place + text.len());
                return Ok(());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<()> {
        let count = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(count > 0, "the server closed the connection");
        Ok(())
    }
}

fn find(buffer: &[u8], text: &[u8]) -> Option<usize> {
    buffer.windows(text.len()).position(|window| window == text)
}
