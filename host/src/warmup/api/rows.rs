//! Rows of an import: NDJSON or CSV, cut out of a stream in pieces of any size.
//!
//! Invariant: memory is bounded by one line (`LINE_OCTETS_MAX`) and one batch, whatever comes in; no row is skipped
//! without being counted. A piece boundary changes nothing.

use crate::http::body::{BOM, is_utf16};
use crate::model::address::Address;
use crate::model::user::NewUser;
use crate::warmup::api::csv::Csv;
use crate::warmup::api::users::check_name;
use memchr::memchr;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use utoipa::ToSchema;

/// The longest line or CSV record in octets.
pub const LINE_OCTETS_MAX: usize = 64 * 1024;
/// The errors that an answer lists; more are counted only.
pub const ROW_ERRORS_MAX: usize = 1_000;
/// The longest detail of one error in characters.
const DETAIL_CHARS_MAX: usize = 200;

/// What is wrong with a row, as a word that never changes. `docs/API.md` lists all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowCode {
    MalformedRow,
    RowShape,
    RowTooLong,
    InvalidUtf8,
    NameInvalid,
    EmailIdInvalid,
}

impl RowCode {
    pub const ALL: [&'static str; 6] = ["malformed_row", "row_shape", "row_too_long", "invalid_utf8", "name_invalid", "email_id_invalid"];
}

/// One refused row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RowError {
    /// The line that it starts on; counts from 1.
    pub line: u64,
    pub code: RowCode,
    pub detail: String,
}

/// What was read and not yet stored.
#[derive(Debug, Default)]
pub struct Batch {
    pub users: Vec<NewUser>,
    /// Refused rows.
    pub invalid: u64,
    /// The first of them.
    pub errors: Vec<RowError>,
}

impl Batch {
    /// Counts a refused row and keeps the first ones.
    pub fn refuse(&mut self, line: u64, code: RowCode, detail: impl FnOnce() -> String) {
        self.invalid += 1;
        if self.errors.len() < ROW_ERRORS_MAX {
            let detail = detail().chars().take(DETAIL_CHARS_MAX).collect();
            self.errors.push(RowError { line, code, detail });
        }
    }

    /// Takes a row, or refuses it for its name or address.
    pub fn row(&mut self, line: u64, name: Cow<'_, str>, email_id: &str) {
        if let Err(problem) = check_name(&name) {
            return self.refuse(line, RowCode::NameInvalid, || format!("`name` {problem}"));
        }
        match Address::parse(email_id) {
            Ok(address) => self.users.push(NewUser { name: name.into_owned(), address }),
            Err(problem) => self.refuse(line, RowCode::EmailIdInvalid, || format!("`email_id` {problem}")),
        }
    }
}

/// Cuts rows out of a stream.
pub struct Rows {
    /// The first octets, until a byte order mark can be told.
    start: Option<Vec<u8>>,
    format: Format,
}

enum Format {
    Lines(Lines),
    Csv(Box<Csv>),
}

/// The text is UTF-16, which its byte order mark shows.
#[derive(Debug, PartialEq, Eq)]
pub struct Utf16;

impl Rows {
    pub fn ndjson() -> Rows {
        Rows { start: Some(Vec::new()), format: Format::Lines(Lines::default()) }
    }

    pub fn csv() -> Rows {
        Rows { start: Some(Vec::new()), format: Format::Csv(Box::default()) }
    }

    /// Reads the next piece of the stream.
    pub fn feed(&mut self, piece: &[u8], batch: &mut Batch) -> Result<(), Utf16> {
        let Some(start) = &mut self.start else {
            self.format.feed(piece, batch);
            return Ok(());
        };
        start.extend_from_slice(piece);
        if start.len() >= BOM.len() { self.begin(batch) } else { Ok(()) }
    }

    /// Reads what is left when the stream has ended.
    pub fn finish(&mut self, batch: &mut Batch) -> Result<(), Utf16> {
        self.begin(batch)?;
        match &mut self.format {
            Format::Lines(lines) => lines.finish(batch),
            Format::Csv(csv) => csv.finish(batch),
        }
        Ok(())
    }

    fn begin(&mut self, batch: &mut Batch) -> Result<(), Utf16> {
        let Some(start) = self.start.take() else {
            return Ok(());
        };
        if is_utf16(&start) {
            return Err(Utf16);
        }
        self.format.feed(start.strip_prefix(BOM).unwrap_or(&start), batch);
        Ok(())
    }
}

impl Format {
    fn feed(&mut self, piece: &[u8], batch: &mut Batch) {
        match self {
            Format::Lines(lines) => lines.feed(piece, batch),
            Format::Csv(csv) => csv.feed(piece, batch),
        }
    }
}

/// One object a line. Blank lines are skipped.
#[derive(Default)]
struct Lines {
    /// The beginning of a line whose end has not come yet, at most one octet longer than a line may be.
    carry: Vec<u8>,
    /// Lines that have ended.
    ended: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    email_id: Cow<'a, str>,
}

impl Lines {
    fn feed(&mut self, mut piece: &[u8], batch: &mut Batch) {
        while let Some(at) = memchr(b'\n', piece) {
            if self.carry.is_empty() {
                self.ended += 1;
                line(self.ended, &piece[..at], batch);
            } else {
                self.keep(&piece[..at]);
                self.end(batch);
            }
            piece = &piece[at + 1..];
        }
        self.keep(piece);
    }

    fn finish(&mut self, batch: &mut Batch) {
        if !self.carry.is_empty() {
            self.end(batch);
        }
    }

    fn keep(&mut self, part: &[u8]) {
        let room = (LINE_OCTETS_MAX + 1).saturating_sub(self.carry.len());
        self.carry.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end(&mut self, batch: &mut Batch) {
        self.ended += 1;
        line(self.ended, &self.carry, batch);
        self.carry.clear();
    }
}

fn line(number: u64, text: &[u8], batch: &mut Batch) {
    if text.len() > LINE_OCTETS_MAX {
        return batch.refuse(number, RowCode::RowTooLong, || format!("is longer than {LINE_OCTETS_MAX} octets"));
    }
    match text.trim_ascii_start().first() {
        None => return,
        Some(b'{') => {}
        // serde would read an array as an object too.
        Some(_) => return batch.refuse(number, RowCode::MalformedRow, || "is no JSON object; send one a line".to_owned()),
    }
    match serde_json::from_slice::<Row>(text) {
        Ok(row) => batch.row(number, row.name, &row.email_id),
        Err(error) if error.is_data() => batch.refuse(number, RowCode::RowShape, || words(&error)),
        Err(error) => batch.refuse(number, RowCode::MalformedRow, || format!("is no JSON: {}", words(&error))),
    }
}

/// What serde says, with the column alone: the line is the row's own, which stands beside it.
fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(what) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `text` in pieces of every size; all must agree.
    fn read(rows: fn() -> Rows, text: &[u8]) -> Vec<String> {
        let in_pieces = |size: usize| {
            let (mut rows, mut batch) = (rows(), Batch::default());
            for piece in text.chunks(size) {
                rows.feed(piece, &mut batch).expect("UTF-8");
            }
            rows.finish(&mut batch).expect("UTF-8");
            assert_eq!(batch.invalid as usize, batch.errors.len());
            let users = batch.users.into_iter().map(|u| format!("{} {}", u.name.escape_debug(), u.address));
            users.chain(batch.errors.into_iter().map(|e| format!("{} {:?}", e.line, e.code))).collect::<Vec<_>>()
        };
        let whole = in_pieces(usize::MAX);
        for size in 1..text.len().clamp(1, 40) {
            assert_eq!(in_pieces(size), whole, "in pieces of {size}");
        }
        whole
    }

    #[test]
    fn ndjson_rows_are_read_and_refused_with_their_line() {
        let text = "\u{feff}{\"name\":\"A\",\"email_id\":\"a@x.example\"}\r\n\n{\"email_id\":\"b@x.example\",\"name\":\"B\\u0021\"}\n[1]\n{\"name\":\"A\"}\n{\"name\n{\"name\":\"\",\"email_id\":\"c@x.example\"}\n{\"name\":\"D\",\"email_id\":\"d\"}";
        let expected =
            ["A a@x.example", "B! b@x.example", "4 MalformedRow", "5 RowShape", "6 MalformedRow", "7 NameInvalid", "8 EmailIdInvalid"];
        assert_eq!(read(Rows::ndjson, text.as_bytes()), expected);
    }

    #[test]
    fn csv_rows_are_read_with_and_without_a_header_in_either_order() {
        let expected = ["A, B a@x.example", "C c@x.example"];
        for header in ["", "name,email_id\n", "\u{feff}Name,Email_ID\r\n\r\n"] {
            assert_eq!(read(Rows::csv, format!("{header}\"A, B\",a@x.example\r\nC,c@x.example").as_bytes()), expected);
        }
        assert_eq!(read(Rows::csv, b"email_id,name\na@x.example,\"A, B\"\nc@x.example,C\n"), expected);
    }

    #[test]
    fn refusals_say_what_the_row_has_and_where() {
        let details = |mut rows: Rows, text: &str| {
            let mut batch = Batch::default();
            rows.feed(text.as_bytes(), &mut batch).expect("UTF-8");
            rows.finish(&mut batch).expect("UTF-8");
            batch.errors.into_iter().map(|e| format!("{}: {}", e.line, e.detail)).collect::<Vec<_>>()
        };
        let cases = [
            ("only", "1: has 1 field; a row is `name,email_id`"),
            ("a,b,c", "1: has 3 fields; a row is `name,email_id`"),
            ("1,2,3,4,5,6,7,8,9,10", "1: has more than 6 fields; a row is `name,email_id`"),
            ("\"A,a@x.example\nB,b@x.example\n", "1: has 1 field over 3 lines; a row is `name,email_id`; is a quote not closed?"),
            ("\"A,a@x.example", "1: has 1 field; a row is `name,email_id`; is a quote not closed?"),
        ];
        for (text, wanted) in cases {
            assert_eq!(details(Rows::csv(), text), [wanted]);
        }
        let cases = [
            ("{\"name\":\"A\"}", "1: missing field `email_id` at column 12"),
            ("{\"name\":5}", "1: invalid type: integer `5`, expected a string at column 9"),
            ("{\"name\" 5}", "1: is no JSON: expected `:` at column 9"),
        ];
        for (text, wanted) in cases {
            assert_eq!(details(Rows::ndjson(), text), [wanted]);
        }
    }

    #[test]
    fn csv_refusals_name_the_line_that_the_record_starts_on() {
        let text =
            b"A,a@x.example\n\nonly one\n\"two\nlines\",b@x.example\r\n1,2,3,4,5,6,7,8,9,10,11\n\xff,c@x.example\nD,d\nE,e@x.example\n";
        let expected = ["A a@x.example", "E e@x.example", "3 RowShape", "4 NameInvalid", "6 RowShape", "7 InvalidUtf8", "8 EmailIdInvalid"];
        assert_eq!(read(Rows::csv, text), expected);
    }

    #[test]
    fn a_line_without_end_is_one_refused_row_and_the_next_is_read() {
        let long = "x".repeat(3 * LINE_OCTETS_MAX);
        let ndjson = format!("{{\"name\":\"{long}\"}}\n{{\"name\":\"A\",\"email_id\":\"a@x.example\"}}\n");
        assert_eq!(read(Rows::ndjson, ndjson.as_bytes()), ["A a@x.example", "1 RowTooLong"]);
        assert_eq!(read(Rows::csv, format!("{long},b@x.example\nA,a@x.example\n").as_bytes()), ["A a@x.example", "1 RowTooLong"]);
        assert_eq!(read(Rows::csv, format!("A,a@x.example\n\"{long}").as_bytes()), ["A a@x.example", "2 RowTooLong"]);
    }

    #[test]
    fn utf_16_is_told_apart_and_nothing_is_nothing() {
        assert_eq!(Rows::csv().feed(b"\xff\xfea\0", &mut Batch::default()), Err(Utf16));
        assert_eq!(read(Rows::csv, b"\n"), [""; 0]);
        assert_eq!(read(Rows::ndjson, b"\n"), [""; 0]);
        assert_eq!(read(Rows::csv, b"a"), ["1 RowShape"]);
    }

    #[test]
    fn every_row_code_is_listed() {
        let codes = [
            RowCode::MalformedRow,
            RowCode::RowShape,
            RowCode::RowTooLong,
            RowCode::InvalidUtf8,
            RowCode::NameInvalid,
            RowCode::EmailIdInvalid,
        ];
        let words = codes.map(|c| serde_json::to_value(c).expect("a word"));
        assert!(words.iter().zip(RowCode::ALL).all(|(a, b)| a == b));
    }
}
