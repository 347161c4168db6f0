//! What stands in a row of `sent`: an entry a delivery, and behind them room for entries to come, which has one value. An entry that is
//! like the one before it says only what differs, as servers answer with one text and a number of their own. Numbers are little endian.
//!
//! Invariant: an entry comes back as it was packed.

use crate::model::delivery::Said;
use crate::warmup::sqlite::blocks::Slot;
use postwarm_plugin_api::{EnhancedCode, Reply};
use std::collections::BTreeMap;

/// The server gave an enhanced status code.
const ENHANCED: u8 = 1;
/// There is a sentence of our own.
const DETAIL: u8 = 2;
/// The entry differs from the one before it in its slot, its instant and the end of the server's text alone.
const ALIKE: u8 = 4;
/// An octet of the room for entries to come; no slot.
pub const ROOM: u8 = u8::MAX;

/// What is known of a delivery that was accepted at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub client: i64,
    pub at: i64,
    pub said: Said,
}

/// Entries to add to a row.
#[derive(Debug, Default)]
pub struct New<'a> {
    pub octets: Vec<u8>,
    pub count: usize,
    last: Option<Packed<'a>>,
}

/// What an entry says, its slot apart.
#[derive(Debug, Clone, Copy)]
struct Packed<'a> {
    client: u32,
    at: u64,
    reply: &'a Reply,
    detail: Option<&'a str>,
}

impl<'a> New<'a> {
    /// Packs an entry behind others; `false` where it does not fit into one.
    pub fn pack(&mut self, slot: Slot, client: i64, at: i64, said: &'a Said) -> bool {
        let (Some(reply), None) = (&said.reply, said.fault) else { return false };
        let (Ok(client), Ok(at)) = (u32::try_from(client), u64::try_from(at)) else { return false };
        let entry = Packed { client, at, reply, detail: said.detail.as_deref() };
        if [Some(reply.text.as_str()), entry.detail].into_iter().flatten().any(|text| text.len() > usize::from(u16::MAX)) {
            return false;
        }
        self.octets.push(slot as u8);
        match self.last.and_then(|last| entry.behind(&last)) {
            Some((later, shared, end)) => {
                self.octets.push(ALIKE);
                self.octets.extend(later.to_le_bytes());
                self.octets.extend([shared, end.len() as u8]);
                self.octets.extend(end);
            }
            None => entry.whole(&mut self.octets),
        }
        self.last = Some(entry);
        self.count += 1;
        true
    }
}

impl<'a> Packed<'a> {
    /// How much later it is than one that is like it, how many octets of the text they share, and its others; `None` where it is to
    /// be said whole.
    fn behind(&self, last: &Packed<'_>) -> Option<(u16, u8, &'a [u8])> {
        let kind = |of: &Packed<'_>| (of.client, of.reply.code, of.reply.enhanced);
        if kind(self) != kind(last) || self.detail != last.detail {
            return None;
        }
        let later = u16::try_from(self.at.checked_sub(last.at)?).ok()?;
        let text = self.reply.text.as_bytes();
        let shared = text.iter().zip(last.reply.text.as_bytes()).take(u8::MAX.into()).take_while(|(a, b)| a == b).count();
        let end = &text[shared..];
        (end.len() <= u8::MAX.into()).then_some((later, shared as u8, end))
    }

    fn whole(&self, octets: &mut Vec<u8>) {
        let Packed { client, at, reply, detail } = self;
        octets.push(if reply.enhanced.is_some() { ENHANCED } else { 0 } | if detail.is_some() { DETAIL } else { 0 });
        octets.extend(client.to_le_bytes());
        octets.extend(at.to_le_bytes());
        octets.extend(reply.code.to_le_bytes());
        if let Some(EnhancedCode(class, subject, detail)) = reply.enhanced {
            octets.push(class);
            octets.extend(subject.to_le_bytes());
            octets.extend(detail.to_le_bytes());
        }
        for text in [Some(reply.text.as_str()), *detail].into_iter().flatten() {
            octets.extend((text.len() as u16).to_le_bytes());
            octets.extend(text.as_bytes());
        }
    }
}

/// The entries of a row.
struct Entries<'a>(&'a [u8]);

/// An entry as it stands in its row.
enum Entry<'a> {
    Whole { client: u32, at: u64, code: u16, enhanced: Option<EnhancedCode>, text: &'a [u8], detail: Option<&'a [u8]> },
    Alike { later: u16, shared: u8, end: &'a [u8] },
}

impl<'a> Entries<'a> {
    fn octets<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (octets, left) = self.0.split_first_chunk::<N>()?;
        self.0 = left;
        Some(*octets)
    }

    fn text(&mut self, length: usize) -> Option<&'a [u8]> {
        let (text, left) = self.0.split_at_checked(length)?;
        self.0 = left;
        Some(text)
    }

    fn long_text(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_le_bytes(self.octets()?);
        self.text(length.into())
    }

    /// Tells whether nothing but room is left; `None` where something stands behind the room.
    fn is_over(&self) -> Option<bool> {
        match self.0.first() {
            Some(&ROOM) => self.0.iter().all(|octet| *octet == ROOM).then_some(true),
            first => Some(first.is_none()),
        }
    }

    fn next(&mut self) -> Option<(u8, Entry<'a>)> {
        let [slot, flags] = self.octets()?;
        if flags & ALIKE != 0 {
            let later = u16::from_le_bytes(self.octets()?);
            let [shared, length] = self.octets()?;
            return Some((slot, Entry::Alike { later, shared, end: self.text(length.into())? }));
        }
        let client = u32::from_le_bytes(self.octets()?);
        let at = u64::from_le_bytes(self.octets()?);
        let code = u16::from_le_bytes(self.octets()?);
        let enhanced = match flags & ENHANCED {
            0 => None,
            _ => {
                let [class] = self.octets()?;
                Some(EnhancedCode(class, u16::from_le_bytes(self.octets()?), u16::from_le_bytes(self.octets()?)))
            }
        };
        let text = self.long_text()?;
        let detail = if flags & DETAIL == 0 { None } else { Some(self.long_text()?) };
        Some((slot, Entry::Whole { client, at, code, enhanced, text, detail }))
    }
}

impl Entry<'_> {
    /// What it says behind the entry `last`; `None` where it makes no sense there.
    fn accepted(&self, last: Option<&Accepted>) -> Option<Accepted> {
        let text = |octets: &[u8]| std::str::from_utf8(octets).ok().map(str::to_owned);
        match *self {
            Entry::Whole { client, at, code, enhanced, text: said, detail } => {
                let detail = match detail {
                    Some(octets) => Some(text(octets)?),
                    None => None,
                };
                let reply = Some(Reply { code, enhanced, text: text(said)? });
                Some(Accepted { client: client.into(), at: i64::try_from(at).ok()?, said: Said { reply, fault: None, detail } })
            }
            Entry::Alike { later, shared, end } => {
                let last = last?;
                let before = last.said.reply.as_ref()?;
                let said = [before.text.as_bytes().get(..shared.into())?, end].concat();
                let reply = Some(Reply { text: text(&said)?, ..before.clone() });
                Some(Accepted { at: last.at.checked_add(later.into())?, said: Said { reply, ..last.said.clone() }, ..*last })
            }
        }
    }
}

/// Reads what [`New::pack`] has packed; `None` where it is damaged.
pub fn unpack(octets: &[u8]) -> Option<BTreeMap<Slot, Accepted>> {
    let mut entries = Entries(octets);
    let (mut found, mut last) = (BTreeMap::new(), None);
    while !entries.is_over()? {
        let (slot, entry) = entries.next()?;
        let accepted = entry.accepted(last.as_ref())?;
        last = Some(accepted.clone());
        found.insert(Slot::from(slot), accepted);
    }
    Some(found)
}

/// Where the room of a row begins; `None` where it is damaged.
pub fn end(octets: &[u8]) -> Option<usize> {
    let mut entries = Entries(octets);
    while !entries.is_over()? {
        entries.next()?;
    }
    Some(octets.len() - entries.0.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use postwarm_plugin_api::Fault;

    fn ok(text: &str) -> Said {
        Said { reply: Some(Reply { code: 250, enhanced: None, text: text.to_owned() }), ..Said::default() }
    }

    #[test]
    fn an_entry_like_the_one_before_it_takes_what_differs() {
        let said: Vec<Said> = (10..74).map(|number| ok(&format!("2.0.0 Ok: queued as 4cVnF0{number}"))).collect();
        let mut new = New::default();
        let mut lengths = Vec::new();
        for (slot, said) in said.iter().enumerate() {
            assert!(new.pack(slot as Slot, 1, 1_764_000_000_000 + slot as i64, said));
            lengths.push(new.octets.len());
        }
        assert_eq!((lengths[0], lengths[1] - lengths[0], lengths[63]), (46, 7, 46 + 57 * 7 + 6 * 8));
    }

    #[test]
    fn what_is_too_long_or_too_late_for_an_entry_like_the_one_before_is_said_whole() {
        let same = "x".repeat(300);
        for (text, at, is_alike) in [
            (same.clone(), 0, true),
            (same.clone() + &"y".repeat(210), 0, true),
            (same.clone() + &"y".repeat(211), 0, false),
            (same.clone(), 65_535, true),
            (same.clone(), 65_536, false),
            (same.clone(), -1, false),
        ] {
            let (first, second) = (ok(&same), ok(&text));
            let mut new = New::default();
            assert!(new.pack(0, 1, 100, &first));
            let before = new.octets.len();
            assert!(new.pack(1, 1, 100 + at, &second));
            assert_eq!(new.octets[before + 1] == ALIKE, is_alike, "{} {at}", text.len());
            let expected = Accepted { client: 1, at: 100 + at, said: second.clone() };
            assert_eq!(unpack(&new.octets).unwrap()[&1], expected);
        }
    }

    #[test]
    fn an_entry_that_an_earlier_program_wrote_is_read() {
        let octets = [3, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 250, 0, 2, 0, b'o', b'k', ROOM];
        assert_eq!(unpack(&octets), Some(BTreeMap::from([(3, Accepted { client: 1, at: 5, said: ok("ok") })])));
    }

    #[test]
    fn what_an_entry_cannot_say_is_not_packed_at_all() {
        let reply = |text: &str| Some(Reply { code: 250, enhanced: None, text: text.to_owned() });
        let long = "x".repeat(70_000);
        let none = Said { reply: None, ..Said::default() };
        let blamed = Said { reply: reply("ok"), fault: Some(Fault::Network), detail: None };
        let wordy = Said { reply: reply(&long), ..Said::default() };
        let explained = Said { reply: reply("ok"), fault: None, detail: Some(long.clone()) };
        let plain = Said { reply: reply("ok"), ..Said::default() };
        let cases = [(1, 0, &none), (1, 0, &blamed), (1, 0, &wordy), (1, 0, &explained), (1 << 32, 0, &plain), (1, -1, &plain)];
        for (client, at, said) in cases {
            let mut new = New::default();
            assert!(!new.pack(0, client, at, said), "{client} {at}");
            assert_eq!((new.octets.len(), new.count), (0, 0));
        }
    }

    #[test]
    fn a_damaged_row_is_told_and_not_taken_for_fewer_entries() {
        let plain = ok("2.0.0 Ok: queued");
        let mut new = New::default();
        assert!(new.pack(0, 1, 1, &plain));
        let first = new.octets.len();
        assert!(new.pack(1, 1, 1, &plain));
        for length in (1..new.octets.len()).filter(|length| *length != first) {
            assert_eq!((unpack(&new.octets[..length]), end(&new.octets[..length])), (None, None), "{length}");
        }
        assert_eq!(unpack(&new.octets[first..]), None, "like nothing that stands before it");
        let with_room = [&new.octets[..], &[ROOM; 3]].concat();
        assert_eq!((unpack(&with_room).map(|found| found.len()), end(&with_room)), (Some(2), Some(new.octets.len())));
        let behind_room = [&with_room[..], &new.octets].concat();
        assert_eq!((unpack(&behind_room), end(&behind_room)), (None, None), "an entry whose slot was overwritten");
    }
}
