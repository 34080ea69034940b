//! A link between two processes that can be cut, or can swallow what is sent until it is mended.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    path::PathBuf,
    process,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// What a link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Carries them.
    Open,
    /// Takes connections and bytes and carries nothing on; what it took goes on its way once it is open again.
    Frozen,
    /// Breaks every connection and refuses new ones.
    Cut,
}

/// Where a link leads.
#[derive(Clone, Debug)]
pub enum End {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A link; it carries for as long as it is held.
#[derive(Debug)]
pub struct Link {
    pub address: SocketAddr,
    flow: watch::Sender<Flow>,
}

impl Link {
    /// A link to the first of `ends` that answers; each connection begins its search with another one, as a load balancer's does.
    pub fn open(ends: Vec<End>) -> Self {
        let (flow, watched) = watch::channel(Flow::Open);
        let address = free_address();
        tokio::spawn(carry_all(address, Ends::new(ends), watched));
        Self { address, flow }
    }

    pub fn set(&self, flow: Flow) {
        self.flow.send_replace(flow);
    }
}

#[derive(Clone, Debug)]
struct Ends {
    all: Arc<Vec<End>>,
    next: Arc<AtomicUsize>,
}

impl Ends {
    fn new(ends: Vec<End>) -> Self {
        Self { all: Arc::new(ends), next: Arc::default() }
    }

    async fn connect(&self) -> Option<(Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>)> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for index in 0..self.all.len() {
            match &self.all[(first + index) % self.all.len()] {
                End::Tcp(address) => {
                    if let Ok(stream) = TcpStream::connect(address).await {
                        let (from, to) = stream.into_split();
                        return Some((Box::new(from), Box::new(to)));
                    }
                }
                End::Unix(path) => {
                    if let Ok(stream) = UnixStream::connect(path).await {
                        let (from, to) = stream.into_split();
                        return Some((Box::new(from), Box::new(to)));
                    }
                }
            }
        }
        None
    }
}

/// Ends with the link: then nobody can set its flow any more.
async fn carry_all(address: SocketAddr, ends: Ends, mut flow: watch::Receiver<Flow>) {
    while flow.wait_for(|flow| *flow != Flow::Cut).await.is_ok() {
        let Ok(listener) = TcpListener::bind(address).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let watched = flow.clone();
        loop {
            tokio::select! {
                cut = flow.wait_for(|flow| *flow == Flow::Cut) => match cut {
                    Ok(_) => break,
                    Err(_) => return,
                },
                Ok((stream, _)) = listener.accept() => {
                    tokio::spawn(carry_until_cut(stream, ends.clone(), watched.clone()));
                }
            }
        }
    }
}

async fn carry_until_cut(stream: TcpStream, ends: Ends, mut flow: watch::Receiver<Flow>) {
    let carried = carry_both_ways(stream, ends, flow.clone());
    tokio::select! {
        () = carried => {}
        _ = flow.wait_for(|flow| *flow == Flow::Cut) => {}
    }
}

async fn carry_both_ways(stream: TcpStream, ends: Ends, mut flow: watch::Receiver<Flow>) {
    if flow.wait_for(|flow| *flow == Flow::Open).await.is_err() {
        return;
    }
    let Some((down_from, up_to)) = ends.connect().await else { return };
    let (up_from, down_to) = stream.into_split();
    // Either side's end ends both.
    tokio::select! {
        _ = carry(up_from, up_to, flow.clone()) => {}
        _ = carry(down_from, down_to, flow) => {}
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut flow: watch::Receiver<Flow>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 || flow.wait_for(|flow| *flow == Flow::Open).await.is_err() {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
    }
}

/// An address that stays free for its user while nobody listens: the system gives ports below 32768 to no one unasked.
pub fn free_address() -> SocketAddr {
    static NEXT: Mutex<u16> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap();
    loop {
        // Test processes beside this one begin elsewhere.
        let port = 10_000 + (process::id() as u16).wrapping_mul(37).wrapping_add(*next) % 20_000;
        *next = next.wrapping_add(1);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if StdListener::bind(address).is_ok() {
            return address;
        }
    }
}
