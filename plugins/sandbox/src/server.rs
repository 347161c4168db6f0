//! The sandbox's server: the listener on loopback, one task a connection, and the file of verdicts.
//!
//! Invariant: the lines of a group of messages are in the file before the first of their replies leaves, with one write
//! to a file opened for appending, so that servers that share a folder do not mix their lines.

use crate::session::{Session, Step};
use crate::settings::ServerBehaviour;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// The file of verdicts within the data folder, one JSON object a line.
pub const FILE_NAME: &str = "mailboxes.ndjson";
const GREETING: &[u8] = b"220 sandbox.invalid ESMTP\r\n";
const CONNECTIONS_MAX: usize = 512;
const READ_OCTETS: usize = 64 * 1024;
/// RFC 5321 4.5.3.2.7: at least five minutes.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// A running server; dropping it ends it and its connections.
pub struct Server {
    address: SocketAddr,
    alive: Arc<AtomicBool>,
    accepting: AbortHandle,
}

impl Server {
    /// Starts a server on 127.0.0.1, port 0, within the runtime of the caller. Blocks for as long as it takes to make
    /// the folder and open the file.
    ///
    /// # Errors
    /// The folder, the file or the listener cannot be made.
    pub fn start(data_dir: &Path, behaviour: ServerBehaviour) -> io::Result<Server> {
        let file = Arc::new(open(data_dir)?);
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let alive = Alive(Arc::new(AtomicBool::new(true)));
        let flag = Arc::clone(&alive.0);
        let accepting = tokio::spawn(async move {
            let _alive = alive;
            accept(listener, behaviour, file).await;
        });
        Ok(Server { address, alive: flag, accepting: accepting.abort_handle() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells whether it still serves: a server ends with the runtime that it was started in.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Clears its flag when the accepting task ends, however it ends.
struct Alive(Arc<AtomicBool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Returns the path of the file of verdicts.
pub fn file_path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

/// Opens the file for appending, and ends the line that a crash may have cut.
fn open(data_dir: &Path) -> io::Result<File> {
    std::fs::create_dir_all(data_dir)?;
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(file_path(data_dir))?;
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

async fn accept(listener: TcpListener, behaviour: ServerBehaviour, file: Arc<File>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let file = Arc::clone(&file);
                connections.spawn(async move {
                    if let Err(error) = serve(stream, behaviour, &file).await {
                        tracing::debug!(%error, "a connection to the sandbox ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the sandbox cannot accept a connection; it tries again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(mut stream: TcpStream, behaviour: ServerBehaviour, file: &File) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(GREETING).await?;
    let (mut session, mut step) = (Session::new(behaviour), Step::default());
    let mut buffer = vec![0; READ_OCTETS];
    let mut filled = 0;
    while !step.quit {
        let read = tokio::time::timeout(IDLE_MAX, stream.read(&mut buffer[filled..])).await??;
        if read == 0 {
            break;
        }
        filled += read;
        let done = session.advance(&buffer[..filled], now_ms(), &mut step);
        buffer.copy_within(done..filled, 0);
        filled -= done;
        if step.replies.is_empty() {
            continue;
        }
        if !behaviour.delay.is_zero() {
            tokio::time::sleep(behaviour.delay).await;
        }
        if let Err(error) = append(file, &step.lines) {
            // Without a reply these messages are in doubt at the client, which is what they are.
            tracing::error!(%error, "the sandbox cannot write its verdicts and drops the connection; make room on the disk");
            return Err(error);
        }
        stream.write_all(&step.replies).await?;
        step.lines.clear();
        step.replies.clear();
    }
    Ok(())
}

/// Appends whole lines. The page cache takes them in microseconds, so this does not leave the thread.
fn append(mut file: &File, lines: &[u8]) -> io::Result<()> {
    if lines.is_empty() { Ok(()) } else { file.write_all(lines) }
}

#[expect(clippy::disallowed_methods, reason = "the server stamps its verdicts with the wall clock, as a mailbox provider would")]
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
