//! CSV of an import, read by octets in pieces of any size.
//!
//! Invariant: memory is one record of at most `LINE_OCTETS_MAX` octets, also where a quote is never closed.

use crate::warmup::api::rows::{Batch, LINE_OCTETS_MAX, RowCode};
use csv_core::{ReadRecordResult, Reader};
use memchr::memchr_iter;
use std::borrow::Cow;

/// Fields that are told apart; rows have two.
const FIELDS_MAX: usize = 8;

/// Records of RFC 4180, read by octets. A header row is optional.
pub struct Csv {
    reader: Reader,
    fields: Box<[u8]>,
    filled: usize,
    ends: [usize; FIELDS_MAX],
    ended: usize,
    /// Whether the record outgrew `fields`.
    too_long: bool,
    inside: bool,
    /// Line ends that were read.
    lines: u64,
    /// The line that the record starts on.
    starts_on: u64,
    columns: Option<Columns>,
}

/// Where the two fields of a row stand.
#[derive(Clone, Copy)]
struct Columns {
    name: usize,
    email_id: usize,
}

impl Default for Csv {
    fn default() -> Csv {
        Csv {
            reader: Reader::new(),
            fields: vec![0; LINE_OCTETS_MAX].into_boxed_slice(),
            filled: 0,
            ends: [0; FIELDS_MAX],
            ended: 0,
            too_long: false,
            inside: false,
            lines: 0,
            starts_on: 1,
            columns: None,
        }
    }
}

impl Csv {
    /// Reads the next piece of the stream.
    pub fn feed(&mut self, mut piece: &[u8], batch: &mut Batch) {
        loop {
            if !self.inside {
                let blank = piece.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
                self.count_lines(&piece[..blank]);
                piece = &piece[blank..];
                self.starts_on = self.lines + 1;
            }
            // An empty piece would tell the reader that the stream has ended.
            if piece.is_empty() {
                return;
            }
            self.inside = true;
            piece = &piece[self.read(piece, batch)..];
        }
    }

    /// Ends the last record.
    pub fn finish(&mut self, batch: &mut Batch) {
        // Each turn either frees the room that was full or ends the record.
        while self.inside {
            self.read(&[], batch);
        }
    }

    /// Reads up to the end of a record; answers how many octets of the piece it took.
    fn read(&mut self, piece: &[u8], batch: &mut Batch) -> usize {
        let (result, taken, filled, ended) = self.reader.read_record(piece, &mut self.fields[self.filled..], &mut self.ends[self.ended..]);
        self.count_lines(&piece[..taken]);
        self.filled += filled;
        self.ended += ended;
        match result {
            ReadRecordResult::InputEmpty => {}
            ReadRecordResult::OutputFull => {
                self.too_long = true;
                self.filled = 0;
            }
            // One more than a row may have: which one it is does not matter any more.
            ReadRecordResult::OutputEndsFull => self.ended = FIELDS_MAX - 1,
            ReadRecordResult::Record => {
                self.record(batch);
                self.reset();
            }
            ReadRecordResult::End => self.reset(),
        }
        taken
    }

    fn reset(&mut self) {
        (self.filled, self.ended, self.too_long, self.inside) = (0, 0, false, false);
    }

    fn count_lines(&mut self, octets: &[u8]) {
        self.lines += memchr_iter(b'\n', octets).count() as u64;
    }

    fn record(&mut self, batch: &mut Batch) {
        let line = self.starts_on;
        if self.too_long {
            return batch.refuse(line, RowCode::RowTooLong, || format!("is longer than {LINE_OCTETS_MAX} octets; is a quote not closed?"));
        }
        if self.ended != 2 {
            return batch.refuse(line, RowCode::RowShape, || self.shape());
        }
        let (first, second) = (&self.fields[..self.ends[0]], &self.fields[self.ends[0]..self.ends[1]]);
        let columns = match (self.columns, header(first, second)) {
            (Some(columns), _) => columns,
            (None, Some(columns)) => {
                self.columns = Some(columns);
                return;
            }
            (None, None) => *self.columns.insert(Columns { name: 0, email_id: 1 }),
        };
        match (std::str::from_utf8(first), std::str::from_utf8(second)) {
            (Ok(first), Ok(second)) => {
                let fields = [first, second];
                batch.row(line, Cow::Borrowed(fields[columns.name]), fields[columns.email_id]);
            }
            _ => batch.refuse(line, RowCode::InvalidUtf8, || "is not UTF-8".to_owned()),
        }
    }
}

impl Csv {
    /// What is wrong with a record that has not two fields. A quote that is not closed takes commas and line ends with it.
    fn shape(&self) -> String {
        let text = &self.fields[..self.filled];
        let lines = memchr_iter(b'\n', text).count() + 1;
        let over = if lines > 1 { format!(" over {lines} lines") } else { String::new() };
        let swallows = lines > 1 || (self.ended == 1 && text.contains(&b','));
        let hint = if swallows { "; is a quote not closed?" } else { "" };
        let given = match self.ended {
            1 => "1 field".to_owned(),
            n if n < FIELDS_MAX - 1 => format!("{n} fields"),
            _ => format!("more than {} fields", FIELDS_MAX - 2),
        };
        format!("has {given}{over}; a row is `name,email_id`{hint}")
    }
}

/// The columns that a header row names; `None` where the row is no header.
fn header(first: &[u8], second: &[u8]) -> Option<Columns> {
    let is = |field: &[u8], name: &str| field.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
    match () {
        () if is(first, "name") && is(second, "email_id") => Some(Columns { name: 0, email_id: 1 }),
        () if is(first, "email_id") && is(second, "name") => Some(Columns { name: 1, email_id: 0 }),
        () => None,
    }
}
