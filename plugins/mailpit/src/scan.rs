//! How the whole list is read although it is newest first and grows meanwhile: pure decisions.
//!
//! A message's place is counted from the oldest, so that mail that comes in does not move it. Each answer says how many
//! messages there were when it was made, and from that follows which places it shows.
//!
//! Invariant: no message that stays in Mailpit is passed over, and memory is one page and the last few ids.

use crate::api::{PAGE_MESSAGES, Page, Summary};
use std::collections::VecDeque;

/// The messages that each page repeats of the one before: Mailpit counts and lists in two steps, between which mail may
/// come in.
const OVERLAP: u64 = 200;
/// The ids that are kept to know the repeated ones by.
const REMEMBERED: usize = 600;

/// A scan from the oldest message to the newest.
pub struct Scan {
    total: u64,
    /// The total of the first answer, which is where the scan ends: what comes in later is for the next one.
    target: Option<u64>,
    /// How much the list grew between the last two answers.
    growth: u64,
    done: u64,
    recent: VecDeque<String>,
}

impl Scan {
    /// Starts behind the first `done` messages.
    pub fn new(done: u64) -> Scan {
        // A guess that asks for the newest messages, which are all of a small Mailpit; the first answer corrects it.
        Scan { total: done + PAGE_MESSAGES - OVERLAP, target: None, growth: 0, done, recent: VecDeque::new() }
    }

    /// Returns the `start` and the `limit` to ask for: a page that reaches behind what is done by the overlap, and by as
    /// much as the list is likely to grow until the answer.
    pub fn window(&self) -> (u64, u64) {
        (self.total.saturating_sub(self.done + PAGE_MESSAGES - OVERLAP - self.growth), PAGE_MESSAGES)
    }

    /// The messages before `done` that may yet be new.
    fn overlap(&self) -> u64 {
        OVERLAP.min(self.recent.len() as u64).min(self.done)
    }

    /// Takes the answer to a question for `start` and returns what is new in it, oldest first with each message's place;
    /// `None` where the list has moved past what was asked for, and the question is to be asked again.
    pub fn take(&mut self, start: u64, page: Page) -> Option<Vec<(u64, Summary)>> {
        if self.target.is_some() {
            self.growth = page.total.saturating_sub(self.total).min(PAGE_MESSAGES / 4);
        }
        self.target.get_or_insert(page.total);
        self.total = page.total;
        if self.is_done() {
            return Some(Vec::new());
        }
        let length = page.messages.len() as u64;
        // A short page ends with the oldest message, whatever has come in since it was made.
        let oldest = if length < PAGE_MESSAGES && length > 0 { 0 } else { page.total.saturating_sub(start + length) };
        let end = oldest + length;
        if oldest > self.done || end <= self.done {
            return None;
        }
        let from = self.done - self.overlap();
        let fresh: Vec<(u64, Summary)> = (oldest..)
            .zip(page.messages.into_iter().rev())
            .filter(|(place, summary)| *place >= from && !self.recent.contains(&summary.id))
            .collect();
        let ids = fresh.iter().rev().take(REMEMBERED).rev().map(|(_, summary)| summary.id.clone());
        self.recent.extend(ids);
        self.recent.drain(..self.recent.len().saturating_sub(REMEMBERED));
        self.done = end;
        Some(fresh)
    }

    /// Tells whether every message is taken that was there at the first answer and still is.
    pub fn is_done(&self) -> bool {
        self.target.is_some_and(|target| self.done >= target.min(self.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list that grows by `growth` before each answer.
    struct List {
        ids: Vec<String>,
        growth: usize,
    }

    impl List {
        fn new(count: usize, growth: usize) -> List {
            let mut list = List { ids: Vec::new(), growth };
            list.grow(count);
            list
        }

        fn grow(&mut self, count: usize) {
            let from = self.ids.len();
            self.ids.extend((from..from + count).map(|n| n.to_string()));
        }

        fn answer(&mut self, start: u64, limit: u64) -> Page {
            self.grow(self.growth);
            let messages = self.ids.iter().rev().skip(start as usize).take(limit as usize);
            let summary = |id: &String| Summary { id: id.clone(), message_id: id.clone(), read: false, tags: None, created: String::new() };
            Page { total: self.ids.len() as u64, messages: messages.map(summary).collect() }
        }
    }

    fn scan(list: &mut List, from: u64) -> (Vec<(u64, String)>, usize) {
        let (mut scan, mut seen, mut questions) = (Scan::new(from), Vec::new(), 0);
        loop {
            questions += 1;
            assert!(questions < 100, "the scan does not end");
            let (start, limit) = scan.window();
            let page = list.answer(start, limit);
            let Some(fresh) = scan.take(start, page) else { continue };
            seen.extend(fresh.into_iter().map(|(place, summary)| (place, summary.id)));
            if scan.is_done() {
                return (seen, questions);
            }
        }
    }

    #[test]
    fn every_message_is_seen_once_oldest_first_while_mail_comes_in() {
        for count in [0, 1, 199, 200, 201, 799, 800, 801, 999, 1_000, 1_001, 1_999, 5_000] {
            for growth in [0, 1, 3, 30, 200] {
                let mut list = List::new(count, growth);
                let (seen, _) = scan(&mut list, 0);
                let want: Vec<(u64, String)> = (0..seen.len() as u64).map(|n| (n, n.to_string())).collect();
                assert_eq!(seen, want, "{count} messages, {growth} more each time");
                assert!(seen.len() >= count);
            }
        }
    }

    #[test]
    fn a_scan_goes_on_where_it_stood_and_asks_no_more_than_it_must() {
        let (seen, questions) = scan(&mut List::new(5_000, 0), 4_321);
        assert_eq!((seen.len(), seen[0].0), (679, 4_321));
        assert!(questions <= 3, "{questions} questions");
        assert_eq!(scan(&mut List::new(100, 0), 0).1, 1);
        assert_eq!(scan(&mut List::new(10, 0), 50).0, []);
    }

    #[test]
    fn mail_that_comes_in_between_counting_and_listing_is_not_passed_over() {
        let mut list = List::new(5_000, 0);
        let (mut scan, mut seen) = (Scan::new(0), Vec::new());
        for question in 0..20 {
            let (start, limit) = scan.window();
            let mut page = list.answer(start, limit);
            match question % 3 {
                // The list is newer than the count, or older, by a few messages.
                1 => {
                    list.grow(15);
                    page.messages = list.answer(start, limit).messages;
                }
                2 => {
                    list.grow(15);
                    page.total = list.ids.len() as u64;
                }
                _ => {}
            }
            seen.extend(scan.take(start, page).unwrap_or_default().into_iter().map(|(_, summary)| summary.id));
            if scan.is_done() {
                break;
            }
        }
        seen.sort_by_key(|id| id.parse::<u64>().expect("a number"));
        seen.dedup();
        assert!((0..5_000).all(|n| seen.get(n) == Some(&n.to_string())));
    }
}
