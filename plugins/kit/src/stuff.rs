//! Dot-stuffing (RFC 5321 4.5.2), piece by piece.
//!
//! Invariant: changes nothing but lines that start with a dot, and never writes the end of data by itself.

use memchr::memmem::Finder;
use std::sync::LazyLock;

/// A line that starts with a dot.
static DOT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n."));

/// Where a content stands between two pieces of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuffer {
    /// The last two octets were CRLF, or nothing was written yet.
    line_start: bool,
    last_is_cr: bool,
}

impl Default for Stuffer {
    fn default() -> Stuffer {
        Stuffer { line_start: true, last_is_cr: false }
    }
}

impl Stuffer {
    /// Appends `piece` to `out`, a dot doubled where it starts a line.
    pub fn stuff(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let Some(&last) = piece.last() else { return };
        let dot_first = self.line_start || (self.last_is_cr && piece.starts_with(b"\n"));
        match (self.line_start, self.last_is_cr, piece) {
            (true, _, [b'.', ..]) => out.push(b'.'),
            (_, true, [b'\n', b'.', ..]) if dot_first => {
                out.extend_from_slice(b"\n.");
                self.finish(piece, last);
                return stuff_inner(&piece[1..], out);
            }
            _ => {}
        }
        self.finish(piece, last);
        stuff_inner(piece, out);
    }

    /// Appends what ends the data: a line end where the content lacks it, and the lone dot.
    pub fn end(&self, out: &mut Vec<u8>) {
        if !self.line_start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }

    fn finish(&mut self, piece: &[u8], last: u8) {
        let cr_before = match piece {
            [_] => self.last_is_cr,
            _ => piece[piece.len() - 2] == b'\r',
        };
        self.line_start = last == b'\n' && cr_before;
        self.last_is_cr = last == b'\r';
    }
}

/// Appends `piece` with each dot behind a CRLF doubled.
fn stuff_inner(piece: &[u8], out: &mut Vec<u8>) {
    let mut from = 0;
    for at in DOT.find_iter(piece) {
        out.extend_from_slice(&piece[from..at + 3]);
        out.push(b'.');
        from = at + 3;
    }
    out.extend_from_slice(&piece[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use memchr::memmem;
    use proptest::prelude::*;

    fn stuffed(pieces: &[&[u8]]) -> Vec<u8> {
        let mut stuffer = Stuffer::default();
        let mut out = Vec::new();
        for piece in pieces {
            stuffer.stuff(piece, &mut out);
        }
        stuffer.end(&mut out);
        out
    }

    /// What a server does: cuts at the end of data and takes the first dot off each line.
    fn unstuffed(wire: &[u8]) -> (Vec<u8>, usize) {
        let mut content = Vec::new();
        let mut at = 0;
        while let Some(end) = memmem::find(&wire[at..], b"\r\n") {
            let line = &wire[at..at + end];
            at += end + 2;
            if line == b"." {
                break;
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            content.extend_from_slice(b"\r\n");
        }
        (content, at)
    }

    #[test]
    fn dots_are_doubled_at_line_starts_only() {
        assert_eq!(stuffed(&[b".a\r\n..\r\nb.c\r\n.\r\n"]), b"..a\r\n...\r\nb.c\r\n..\r\n.\r\n");
        assert_eq!(stuffed(&[b"a\r\n", b".b\r\n"]), b"a\r\n..b\r\n.\r\n");
        assert_eq!(stuffed(&[b"a\r", b"\n.b"]), b"a\r\n..b\r\n.\r\n");
        assert_eq!(stuffed(&[b"a\r", b"\n", b".", b"\r\n"]), b"a\r\n..\r\n.\r\n");
        assert_eq!(stuffed(&[]), b".\r\n");
    }

    proptest! {
        #[test]
        fn what_a_server_unstuffs_is_what_was_given(
            lines in proptest::collection::vec("[.]{0,3}[a-z.]{0,6}", 0..20),
            cuts in proptest::collection::vec(0usize..200, 0..5),
        ) {
            let content: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(content.len())).collect();
            cuts.extend([0, content.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &content[pair[0]..pair[1]]).collect();
            let wire = stuffed(&pieces);
            prop_assert_eq!(unstuffed(&wire), (content, wire.len()));
        }
    }
}
