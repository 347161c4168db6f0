//! Where the most lenient server would see the end of data.
//!
//! Servers have been found that take a bare CR or LF for a line end, in front of the dot or behind it, or pass over a NUL there. Where
//! they disagree with the server in front of them, one message becomes two ("SMTP smuggling").

/// Returns where each end of data begins in what came after 354, by its dot. A content that no server can split has one.
pub fn ends(wire: &[u8]) -> Vec<usize> {
    let is_end = |&at: &usize| wire[at] == b'.' && begins_line(&wire[..at]) && ends_line(&wire[at + 1..]);
    (0..wire.len()).filter(is_end).collect()
}

fn begins_line(before: &[u8]) -> bool {
    let before = before.strip_suffix(b"\0").unwrap_or(before);
    matches!(before.last(), None | Some(b'\r' | b'\n'))
}

fn ends_line(behind: &[u8]) -> bool {
    let behind = behind.strip_prefix(b"\0").unwrap_or(behind);
    matches!(behind.first(), Some(b'\r' | b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_form_is_an_end_and_a_stuffed_dot_is_none() {
        let line_ends = ["\r\n", "\n", "\r"];
        for before in line_ends {
            for behind in line_ends {
                for (nul_before, nul_behind) in [("", ""), ("\0", ""), ("", "\0")] {
                    let wire = format!("a{before}{nul_before}.{nul_behind}{behind}MAIL FROM:<b@x.example>\r\n.\r\n");
                    assert_eq!(ends(wire.as_bytes()).len(), 2, "{wire:?}");
                }
            }
        }
        assert_eq!(ends(b".\r\n"), [0]);
        assert_eq!(ends(b"a\r\n..\r\n.b\r\nc.\r\n.\r\n"), [15]);
    }
}
