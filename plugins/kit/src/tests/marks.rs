//! The mark goes in front of the dot.

use super::*;
use postwarm_plugin_api::KeepMarks;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, mpsc};

const PATIENCE: Duration = Duration::from_secs(20);

/// Looks, as a mark is set, at what the server could have read of the content by then.
struct Looking {
    server: Mutex<Option<TcpStream>>,
    seen: mpsc::Sender<usize>,
}

impl KeepMarks for Looking {
    fn set(&self, _: usize, _: u64) {
        let server = self.server.lock().unwrap();
        let server = server.as_ref().expect("the server asked for the content");
        server.set_nonblocking(true).unwrap();
        // Over loopback, what was written is there at once.
        let octets = server.peek(&mut [0; 64]).unwrap_or(0);
        server.set_nonblocking(false).unwrap();
        self.seen.send(octets).unwrap();
    }

    fn clear(&self, _: usize, _: u64) {}
}

/// A server that reads no content before the mark was set; answers what it could have read by then.
fn serve(listener: &TcpListener, marks: &Looking, seen: &mpsc::Receiver<usize>) -> usize {
    let (stream, _) = listener.accept().unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    let say = |line: &str| (&stream).write_all(format!("{line}\r\n").as_bytes()).unwrap();
    say("220 here");
    while !lines.next().unwrap().starts_with("DATA") {
        say("250 yes");
    }
    *marks.server.lock().unwrap() = Some(stream.try_clone().unwrap());
    say("354 go on");
    let octets = seen.recv_timeout(PATIENCE).expect("the message is marked");
    while lines.next().unwrap() != "." {}
    say("250 taken");
    octets
}

#[tokio::test]
async fn a_message_is_marked_before_its_dot_leaves() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (told, seen) = mpsc::channel();
    let marks = Arc::new(Looking { server: Mutex::default(), seen: told });
    let settings = json!({ "host": "127.0.0.1", "port": listener.local_addr().unwrap().port(), "tls": "none" });
    let settings = ServerSettings::parse(&instance(settings, &[]), Defaults::default()).unwrap();
    let client = Arc::new(Client::new(settings, 1, &[]));
    let serving = {
        let marks = marks.clone();
        tokio::task::spawn_blocking(move || serve(&listener, &marks, &seen))
    };
    let outcome = send_marked(&client, "a@y.example", Mark::new(marks, 0, 0)).await.unwrap();
    assert_eq!(words(&outcome), "Accepted");
    assert_eq!(serving.await.unwrap(), 0, "octets of the content that could be read before the mark was set");
}
