//! The words of our own sink: what it answers to what has come.
//!
//! Invariant: no I/O; what comes in pieces is answered as if it came at once.

use memchr::memmem;

const END_OF_CONTENT: &[u8] = b"\r\n.\r\n";
const OK: &[u8] = b"250 2.0.0 ok\r\n";

/// What the session does after the replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Go,
    StartTls,
    Close,
}

/// One session's state.
pub struct Dialogue {
    offers_tls: bool,
    in_content: bool,
    /// Messages that were accepted.
    pub accepted: u64,
}

impl Dialogue {
    pub fn new(offers_tls: bool) -> Dialogue {
        Dialogue { offers_tls, in_content: false, accepted: 0 }
    }

    /// Answers what stands in `input`; says how much of it is done with.
    pub fn take(&mut self, input: &[u8], replies: &mut Vec<u8>) -> (usize, Next) {
        let mut done = 0;
        loop {
            let rest = &input[done..];
            if self.in_content {
                let Some(end) = memmem::find(rest, END_OF_CONTENT) else {
                    // The end may be there in part.
                    return (done + rest.len().saturating_sub(END_OF_CONTENT.len() - 1), Next::Go);
                };
                done += end + END_OF_CONTENT.len();
                self.in_content = false;
                self.accepted += 1;
                replies.extend_from_slice(OK);
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', rest) else { return (done, Next::Go) };
            let next = self.command(&rest[..=end], replies);
            // An empty message ends with the line end of DATA itself, which therefore stays.
            done += end + 1 - if self.in_content { 2 } else { 0 };
            if next != Next::Go {
                return (done, next);
            }
        }
    }

    fn command(&mut self, line: &[u8], replies: &mut Vec<u8>) -> Next {
        let mut verb = [b' '; 4];
        verb.iter_mut().zip(line).for_each(|(to, from)| *to = from.to_ascii_uppercase());
        match &verb {
            b"EHLO" => {
                let tls: &[u8] = if self.offers_tls { b"250-STARTTLS\r\n" } else { b"" };
                replies.extend_from_slice(&[b"250-sink\r\n250-PIPELINING\r\n", tls, b"250 8BITMIME\r\n"].concat());
            }
            b"DATA" => {
                self.in_content = true;
                replies.extend_from_slice(b"354 go on\r\n");
            }
            b"HELO" | b"MAIL" | b"RCPT" | b"RSET" | b"NOOP" => replies.extend_from_slice(OK),
            b"STAR" if self.offers_tls => {
                self.offers_tls = false;
                replies.extend_from_slice(b"220 2.0.0 go on\r\n");
                return Next::StartTls;
            }
            b"QUIT" => {
                replies.extend_from_slice(b"221 2.0.0 bye\r\n");
                return Next::Close;
            }
            _ => replies.extend_from_slice(b"500 5.5.1 what?\r\n"),
        }
        Next::Go
    }
}
