//! What goes over TCP: frames, where the nodes are, and how one is cut off.
//!
//! | Byte | Size | Field   | Notes                                                         |
//! |-----:|-----:|---------|---------------------------------------------------------------|
//! |    0 |    4 | length  | of what follows, at most `MAX_LEN`                            |
//! |    4 |    1 | version | 1                                                             |
//! |    5 |    1 | kind    | 1: a request or an answer, 2: a message between logs          |
//! |    6 |      | body    | 1: a [`Frame`] as JSON; 2: the sender in 4 bytes, the message |
//!
//! Numbers are big-endian. Nobody is authenticated: this is a loopback.

use std::collections::BTreeMap;
use std::io::{self, Error, ErrorKind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use chiplog::replica::Message;
use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::raft::Types;

#[derive(Serialize, Deserialize)]
pub(crate) enum Frame {
    Request(u64, Request),
    /// Has the number of what was asked.
    Answer(u64, Answer),
    /// From this node.
    #[serde(skip)]
    Message(u32, Message),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// From a client: give it an id, of which nobody else is.
    NewProducer,
    /// From that one, with the number of the first: append these lines, as one batch, and answer when they are replicated.
    Append(i64, i32, Vec<String>),
    /// Have this command agreed on, in bytes.
    Propose(Vec<u8>),
    Raft(u32, Rpc),
    Status,
    /// Neither hear nor say anything for so many milliseconds.
    Cut(u64),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Rpc {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u32>),
    Snapshot(InstallSnapshotRequest<Types>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The lines have the offsets from this one on.
    Acked(u64),
    /// Ask this node, if one is known.
    NotLeader(Option<u32>),
    /// The outcome is unknown.
    Failed(String),
    Done,
    Producer(i64),
    Raft(serde_json::Value),
    Status(Status),
}

/// What a node says of its partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) leader: Option<u32>,
    pub(crate) in_sync: usize,
    pub(crate) committed: u64,
    pub(crate) end: u64,
    pub(crate) halted: Option<String>,
}

pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let (mut bytes, mut payload) = (vec![0, 0, 0, 0, VERSION], &[][..]);
    if let Frame::Message(from, message) = frame {
        bytes.push(MESSAGE);
        bytes.extend(from.to_be_bytes());
        message.encode_head(&mut bytes);
        payload = message.payload(); // From where it is stored.
    } else {
        bytes.push(JSON);
        serde_json::to_writer(&mut bytes, frame)?;
    }
    let len = u32::try_from(bytes.len() - LEN_LEN + payload.len()).ok().filter(|len| *len <= MAX_LEN);
    bytes[..LEN_LEN].copy_from_slice(&len.ok_or_else(|| invalid("frame too long"))?.to_be_bytes());
    stream.write_all(&bytes).await?;
    stream.write_all(payload).await
}

pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let len = stream.read_u32().await?;
    if !(2..=MAX_LEN).contains(&len) {
        return Err(invalid("frame too long, or too short"));
    }
    let mut bytes = vec![0; len as usize];
    stream.read_exact(&mut bytes).await?;
    match (bytes[0], bytes[1], &bytes[2..]) {
        (VERSION, JSON, body) => Ok(serde_json::from_slice(body)?),
        (VERSION, MESSAGE, body) => {
            let (from, body) = body.split_first_chunk().ok_or_else(|| invalid("no sender"))?;
            let message = Message::decode(body).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
            Ok(Frame::Message(u32::from_be_bytes(*from), message))
        }
        _ => Err(invalid("frame of another version or kind")),
    }
}

pub(crate) async fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = timeout(PATIENCE, TcpStream::connect(("127.0.0.1", port))).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks once, on a connection of its own.
pub(crate) async fn ask(port: u16, request: Request) -> io::Result<Answer> {
    let mut stream = connect(port).await?;
    timeout(PATIENCE, exchange(&mut stream, request)).await?
}

/// Asks, on a connection on which nothing else is asked meanwhile.
pub(crate) async fn exchange(stream: &mut TcpStream, request: Request) -> io::Result<Answer> {
    write(stream, &Frame::Request(0, request)).await?;
    match read(stream).await? {
        Frame::Answer(_, answer) => Ok(answer),
        _ => Err(invalid("no answer")),
    }
}

/// A node, and what it knows of the ways to the others.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: u32,
    pub(crate) dir: PathBuf,
    pub(crate) ports: BTreeMap<u32, u16>,
    cut_until: Mutex<Instant>,
    heard: Mutex<BTreeMap<u32, Instant>>,
}

impl Place {
    pub(crate) fn new(id: u32, dir: PathBuf, ports: BTreeMap<u32, u16>) -> Self {
        Self { id, dir, ports, cut_until: Mutex::new(Instant::now()), heard: Mutex::default() }
    }

    pub(crate) fn cut(&self, span: Duration) {
        *self.cut_until.lock() = Instant::now() + span;
    }

    /// Whether nothing comes in or goes out.
    pub(crate) fn is_cut(&self) -> bool {
        Instant::now() < *self.cut_until.lock()
    }

    pub(crate) fn hear(&self, node: u32) {
        self.heard.lock().insert(node, Instant::now());
    }

    /// How long nothing was heard of a node. Counts from the first question on, if it never said a word.
    pub(crate) fn silence(&self, node: u32) -> Duration {
        self.heard.lock().entry(node).or_insert_with(Instant::now).elapsed()
    }
}

pub(crate) fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

const VERSION: u8 = 1;
const JSON: u8 = 1;
const MESSAGE: u8 = 2;
const LEN_LEN: usize = size_of::<u32>();
const MAX_LEN: u32 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(1);
