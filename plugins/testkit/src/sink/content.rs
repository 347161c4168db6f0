//! The content of a message, up to the sink's decision about it.

use super::journal::Fact;
use super::script::{Action, Step};
use super::session::{Over, Session};
use std::pin::Pin;
use std::task::Poll;
use tokio::io::{AsyncRead, ReadBuf};

impl Session<'_> {
    /// Reads a content and does what the script says at its end.
    pub(super) async fn content(&mut self) -> Result<(), Over> {
        if self.input.is_empty() {
            self.fill().await?;
        }
        if let Some(action) = self.script.action(Step::Content, self.connection, &self.recipients) {
            self.perform(action, "").await?;
        }
        let (content, length) = loop {
            if let Some(found) = find_end(&self.input, self.script.keep_content) {
                break found;
            }
            self.fill().await?;
        };
        let wire = if self.script.keep_content { self.input[..length].to_vec() } else { Vec::new() };
        let message_id = message_id(&self.input[..length]);
        self.input.drain(..length);
        self.note(Fact::Content { to: self.recipients.clone(), bytes: content, wire });
        self.in_mail = false;
        self.end_of_data(message_id).await?;
        self.recipients.clear();
        Ok(())
    }

    async fn end_of_data(&mut self, message_id: String) -> Result<(), Over> {
        let mut action = self.script.action(Step::EndOfData, self.connection, &self.recipients);
        if let Some(Action::Hold(gate)) = &action {
            self.hold(gate).await?;
            self.refuse_who_left().await?;
            action = None;
        }
        let accepts = match &action {
            None | Some(Action::AcceptThen(_) | Action::Raw(_)) => true,
            Some(Action::Reply(reply) | Action::ReplyThenClose(reply)) => reply.starts_with('2'),
            Some(_) => false,
        };
        if accepts && !self.recipients.is_empty() {
            self.note(Fact::Accepted { to: self.recipients.clone(), message_id });
        }
        let accepted = "250 2.0.0 accepted";
        match action {
            None => self.reply(accepted),
            Some(Action::AcceptThen(then)) => drop(self.perform(*then, accepted).await?),
            Some(action) => drop(self.perform(action, accepted).await?),
        }
        Ok(())
    }

    /// Ends the session where the client has left, without waiting for what it sends.
    async fn refuse_who_left(&mut self) -> Result<(), Over> {
        let mut block = [0; 16 * 1024];
        loop {
            let ready = std::future::poll_fn(|context| {
                let mut read = ReadBuf::new(&mut block);
                let polled = Pin::new(&mut self.stream).poll_read(context, &mut read);
                let length = read.filled().len();
                Poll::Ready(match polled {
                    Poll::Pending => None,
                    Poll::Ready(done) => Some(done.map(|()| length)),
                })
            });
            let read = ready.await;
            match read {
                None => return Ok(()),
                Some(Ok(0)) => return Err(Over),
                Some(read) => self.input.extend_from_slice(&block[..read?]),
            }
        }
    }
}

/// Finds the end of data; returns the content without dot-stuffing and the octets up to the end.
fn find_end(input: &[u8], keep: bool) -> Option<(Vec<u8>, usize)> {
    let end = match input.starts_with(b".\r\n") {
        true => 0,
        false => memchr::memmem::find(input, b"\r\n.\r\n")? + 2,
    };
    let mut content = Vec::new();
    if keep {
        for line in input[..end].split_inclusive(|&octet| octet == b'\n') {
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
    }
    Some((content, end + 3))
}

/// The Message-ID in the header, without angle brackets.
fn message_id(content: &[u8]) -> String {
    let end = memchr::memmem::find(content, b"\r\n\r\n").unwrap_or(content.len());
    let header = String::from_utf8_lossy(&content[..end]);
    let field = header.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("message-id").then(|| value.trim().trim_matches(['<', '>']).to_owned())
    });
    field.unwrap_or_default()
}
