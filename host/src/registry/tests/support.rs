//! Temporary directories, a clock by hand, a C compiler, the examples, and a small SMTP sink.

use crate::registry::Registry;
use postwarm_plugin_api::{Instance, Message};
use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A registry over empty directories, with the time in the test's hands.
pub struct Place {
    pub folder: TempDir,
    pub registry: Registry,
    now: Mutex<Instant>,
}

impl Place {
    pub fn new() -> Place {
        let folder = TempDir::new().expect("a temporary folder");
        let plugins = folder.path().join("plugins");
        std::fs::DirBuilder::new().mode(0o755).create(&plugins).expect("a folder");
        let registry = Registry::new(plugins, folder.path().join("private"));
        Place { folder, registry, now: Mutex::new(Instant::now()) }
    }

    pub fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    /// Puts a file into the plugins directory, by a rename, as a careful operator does.
    pub fn drop_octets(&self, name: &str, octets: &[u8]) {
        let part = self.plugins().join(".part");
        std::fs::write(&part, octets).expect("writable");
        std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o755)).expect("ours");
        std::fs::rename(&part, self.plugins().join(name)).expect("the same folder");
    }

    pub fn drop_file(&self, library: &Path) {
        let name = library.file_name().and_then(|name| name.to_str()).expect("it has a name");
        self.drop_octets(name, &std::fs::read(library).expect("it was built"));
    }

    /// Scans twice, far enough apart for everything to settle.
    pub fn settle(&self) {
        self.registry.rescan(self.pass(Duration::ZERO));
        self.registry.rescan(self.pass(Duration::from_millis(300)));
    }

    pub fn pass(&self, time: Duration) -> Instant {
        let mut now = self.now.lock().expect("no test panics with it");
        *now += time;
        *now
    }

    /// The problem that the list names for a file.
    pub fn problem(&self, file: &str) -> Option<String> {
        let list = self.registry.list();
        list.into_iter().find(|status| status.file.as_deref() == Some(file)).expect("the file is listed").problem
    }

    /// Compiles a plugin and drops it.
    pub fn drop_c(&self, name: &str, source: &str, defines: &[&str]) {
        self.drop_file(&compile(self.folder.path(), name, source, defines));
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host lies in the workspace").to_owned()
}

/// Compiles one C file to a library.
pub fn compile(folder: &Path, name: &str, source: &str, defines: &[&str]) -> PathBuf {
    let (c, so) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    std::fs::write(&c, source).expect("writable");
    let mut compiler = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
    compiler.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread"]);
    compiler.args(defines.iter().map(|define| format!("-D{define}")));
    let built = compiler.arg("-I").arg(root().join("plugin-api/include")).arg("-o").arg(&so).arg(&c).output();
    let built = built.expect("a C compiler, which the build of this workspace needs too");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    so
}

/// The C example, compiled from its own source.
pub fn c_example(folder: &Path) -> PathBuf {
    let source = std::fs::read_to_string(root().join("plugins/examples/smtp-c/postwarm_example_c.c")).expect("it is there");
    compile(folder, "postwarm_example_c", &source, &[])
}

/// A Rust example, built by the Cargo of this test run into the same target directory.
pub fn rust_example(package: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let debug = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let target = debug.parent().expect("a profile's folder lies in target");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--offline", "-p", package, "--target-dir"]).arg(target).current_dir(root());
    let built = cargo.output().expect("cargo runs this test");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join("debug").join(format!("lib{}.so", package.replace('-', "_")))
}

pub fn instance(settings: serde_json::Value) -> Instance {
    Instance {
        organization: "acme".into(),
        name: "primary".into(),
        settings: settings.as_object().expect("an object").clone(),
        secrets: BTreeMap::new(),
        connections_max: 2,
        data_dir: "/nonexistent".into(),
    }
}

pub fn message(to: &str) -> Message {
    Message {
        delivery: "delivery-1".into(),
        envelope_from: "from@example.com".into(),
        envelope_to: to.into(),
        header: "Subject: dots\r\n\r\n".into(),
        body: ".first\r\nsecond\r\n..third\r\nlast\r\n".into(),
        eight_bit: false,
        smtputf8: false,
        mark: None,
    }
}

/// What a sink got: the lines of each dialogue, as they came.
#[derive(Default)]
pub struct Journal(Mutex<Vec<String>>);

impl Journal {
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no test panics with it").clone()
    }
}

/// A server that takes mail, and for some recipients behaves: `full@` is refused, `hangup@` gets no reply to its end of
/// data.
pub async fn sink() -> (u16, Arc<Journal>) {
    sink_offering("8BITMIME").await
}

/// The same, announcing these extensions.
pub async fn sink_offering(extensions: &'static str) -> (u16, Arc<Journal>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let journal = Arc::new(Journal::default());
    let shared = journal.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, shared.clone(), extensions));
        }
    });
    (port, journal)
}

async fn serve(stream: TcpStream, journal: Arc<Journal>, extensions: &str) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let (mut in_data, mut hang_up) = (false, false);
    write.write_all(b"220 sink\r\n").await?;
    let greeting: String = extensions.split(' ').map(|name| format!("250-{name}\r\n")).collect();
    let greeting = format!("250-sink\r\n{greeting}250 HELP\r\n");
    while let Some(line) = lines.next_line().await? {
        journal.0.lock().expect("no test panics with it").push(line.clone());
        if in_data && line != "." {
            continue;
        }
        let word = line.get(..4).unwrap_or(&line);
        let reply = match word {
            "." if hang_up => return Ok(()),
            "." => "250 2.0.0 taken\r\n",
            "EHLO" => &greeting,
            "RCPT" if line.contains("full@") => "552 5.2.2 mailbox full\r\n",
            "DATA" => "354 go on\r\n",
            "QUIT" => "221 bye\r\n",
            _ => "250 ok\r\n",
        };
        hang_up |= word == "RCPT" && line.contains("hangup@");
        in_data = word == "DATA";
        write.write_all(reply.as_bytes()).await?;
    }
    Ok(())
}
