//! The table of docs/RELIABILITY.md that says what each fault of a server becomes.
//!
//! Invariant: every phase, fault and class is in the document, and nothing else is.

use std::path::Path;

const HEADING: &str = "## What each fault of a server becomes";

/// Where in a session the server misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Connect,
    Greeting,
    Ehlo,
    StartTls,
    Handshake,
    Auth,
    Mail,
    Rcpt,
    Data,
    Body,
    /// The end of data, and the message was not accepted.
    Dot,
    /// The end of data, and the message was accepted.
    AcceptedDot,
    Quit,
}

/// What the server does there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Defer,
    Refuse,
    /// 421, and the end of the connection.
    Leave,
    Close,
    Half,
    Stall,
    Garbage,
    Endless,
}

/// What becomes of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    NextClient,
    Again,
    Deferred,
    Failed,
    Unknown,
    Nothing,
}

const PHASES: [(&str, Phase); 13] = [
    ("connect", Phase::Connect),
    ("greeting", Phase::Greeting),
    ("EHLO", Phase::Ehlo),
    ("STARTTLS", Phase::StartTls),
    ("TLS handshake", Phase::Handshake),
    ("AUTH", Phase::Auth),
    ("MAIL", Phase::Mail),
    ("RCPT", Phase::Rcpt),
    ("DATA", Phase::Data),
    ("body, before its end", Phase::Body),
    ("final dot, not accepted", Phase::Dot),
    ("final dot, accepted", Phase::AcceptedDot),
    ("QUIT", Phase::Quit),
];

const FAULTS: [(&str, Fault); 8] = [
    ("4yz", Fault::Defer),
    ("5yz", Fault::Refuse),
    ("421, close", Fault::Leave),
    ("close", Fault::Close),
    ("half a reply", Fault::Half),
    ("stall", Fault::Stall),
    ("garbage", Fault::Garbage),
    ("endless reply", Fault::Endless),
];

const CLASSES: [(&str, Class); 6] = [
    ("next client", Class::NextClient),
    ("again", Class::Again),
    ("deferred", Class::Deferred),
    ("failed", Class::Failed),
    ("unknown", Class::Unknown),
    ("nothing", Class::Nothing),
];

/// One cell.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    pub phase: Phase,
    pub fault: Fault,
    pub class: Class,
}

impl Class {
    /// The word of the document.
    pub fn word(self) -> &'static str {
        CLASSES.iter().find(|(_, class)| *class == self).map_or("", |(word, _)| word)
    }
}

/// Reads the document; panics where it is no such table.
pub fn read() -> Vec<Cell> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/RELIABILITY.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(HEADING).unwrap_or_else(|| panic!("the document has no `{HEADING}`"));
    let mut rows = section.lines().skip_while(|line| !line.starts_with("| phase |")).take_while(|line| line.starts_with('|')).map(cells);
    let faults: Vec<Fault> = rows.next().unwrap()[1..].iter().map(|word| find(&FAULTS, word)).collect();
    assert_eq!(faults, FAULTS.map(|(_, fault)| fault), "each fault has its column");
    let mut table = Vec::new();
    let mut phases = Vec::new();
    for row in rows.skip(1) {
        let phase = find(&PHASES, &row[0]);
        phases.push(phase);
        assert_eq!(row.len(), faults.len() + 1, "{phase:?} has a cell for each fault");
        let filled = faults.iter().zip(&row[1..]).filter(|(_, word)| *word != "-");
        table.extend(filled.map(|(&fault, word)| Cell { phase, fault, class: find(&CLASSES, word) }));
    }
    assert_eq!(phases, PHASES.map(|(_, phase)| phase), "each phase has its row");
    table
}

fn cells(line: &str) -> Vec<String> {
    line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
}

fn find<T: Copy>(words: &[(&str, T)], wanted: &str) -> T {
    words.iter().find(|(word, _)| *word == wanted).unwrap_or_else(|| panic!("the document says `{wanted}`, which nobody knows")).1
}
