//! The cursor of a feedback loop that reads a list from its start: a place, and how much of what stands there is told.
//!
//! Invariant: a sink that wants no more loses nothing and hears nothing twice.

use postwarm_plugin_api::{Fact, FactSink, PollError, Report};
use std::fmt;
use std::ops::ControlFlow;

/// Where a loop stands: the place of what comes next, and how many facts of that are told. As a text `7`, or `7+2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    pub place: u64,
    pub facts: usize,
}

impl Cursor {
    /// Stands before everything at this place.
    pub fn at(place: u64) -> Cursor {
        Cursor { place, facts: 0 }
    }

    /// Reads a cursor; an empty one is the start.
    ///
    /// # Errors
    /// The text is no cursor of `owner`, whose places are each a `meaning`.
    pub fn parse(text: &str, owner: &str, meaning: &str) -> Result<Cursor, PollError> {
        let (place, facts) = text.split_once('+').unwrap_or((text, "0"));
        match (place.parse(), facts.parse()) {
            _ if text.is_empty() => Ok(Cursor::default()),
            (Ok(place), Ok(facts)) => Ok(Cursor { place, facts }),
            _ => Err(PollError::Refused(format!("the cursor {text:?} is none of {owner}'s; it is {meaning}"))),
        }
    }

    /// Tells the facts of what stands here, which ends before the place `next`, but for those that are told. Breaks with
    /// where to go on where the sink wants no more.
    pub fn tell(self, facts: Vec<Fact>, next: u64, sink: &mut dyn FactSink) -> ControlFlow<Cursor, Cursor> {
        let count = facts.len();
        for (n, fact) in facts.into_iter().enumerate().skip(self.facts) {
            if !sink.push(Report::Message(fact)) {
                let told = n + 1;
                return ControlFlow::Break(if told < count { Cursor { facts: told, ..self } } else { Cursor::at(next) });
            }
        }
        ControlFlow::Continue(Cursor::at(next))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.facts == 0 { write!(f, "{}", self.place) } else { write!(f, "{}+{}", self.place, self.facts) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postwarm_plugin_api::FactKind;

    fn parse(text: &str) -> Result<Cursor, PollError> {
        Cursor::parse(text, "the list", "a number of lines")
    }

    #[test]
    fn a_cursor_reads_back_as_it_was_written() {
        for cursor in [Cursor::default(), Cursor::at(7), Cursor { place: 7, facts: 2 }] {
            assert_eq!(parse(&cursor.to_string()), Ok(cursor));
        }
        assert_eq!(parse(""), Ok(Cursor::default()));
        let refused = "the cursor \"seven\" is none of the list's; it is a number of lines".to_owned();
        assert_eq!(parse("seven"), Err(PollError::Refused(refused)));
    }

    /// Takes so many facts.
    struct Room(Vec<FactKind>, usize);

    impl FactSink for Room {
        fn push(&mut self, report: Report) -> bool {
            let Report::Message(fact) = report else { panic!("{report:?}") };
            self.0.push(fact.kind);
            self.0.len() < self.1
        }
    }

    #[test]
    fn what_a_full_sink_left_is_told_the_next_time() {
        let all = [FactKind::Delivered, FactKind::Opened, FactKind::Read];
        let facts = || all.map(|kind| Fact { message_id: "m@x".into(), kind, at_ms: None, detail: None }).to_vec();
        let tell = |from: Cursor, room: usize| {
            let mut sink = Room(Vec::new(), room);
            (from.tell(facts(), 9, &mut sink), sink.0)
        };
        let rest = Cursor { place: 7, facts: 2 };
        assert_eq!(tell(Cursor::at(7), 2), (ControlFlow::Break(rest), all[..2].to_vec()));
        assert_eq!(tell(rest, 2), (ControlFlow::Continue(Cursor::at(9)), all[2..].to_vec()));
        assert_eq!(tell(Cursor::at(7), 3), (ControlFlow::Break(Cursor::at(9)), all.to_vec()), "nothing is left of it");
    }
}
