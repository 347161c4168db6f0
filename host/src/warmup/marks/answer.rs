//! What a server said of a message, in the words of its place.
//!
//! Invariant: pure, and allocates nothing to write. Words are read as an answer only where exactly these would be written for it.

use postwarm_plugin_api::{EnhancedCode, Fault, Outcome, Reply};
use std::time::Duration;

/// The words that an answer may have: 440 octets of text, which is more than the large providers say.
pub const ANSWER_WORDS: usize = 59;
/// What it is with code and length, the enhanced code, when to try again, and when it came. Behind them is the text.
const HEAD_WORDS: usize = 4;
const WORD_OCTETS: usize = size_of::<u64>();

const ACCEPTED: u8 = 1;
const DEFERRED: u8 = 2;
const REJECTED: u8 = 3;
/// Each stands under its place here and one more; 0 is none.
const FAULTS: [Fault; 5] = [Fault::Recipient, Fault::Account, Fault::Domain, Fault::Content, Fault::Network];
/// The mark of an enhanced code that is there.
const ENHANCED: u8 = 1;

/// What a server said, and when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub outcome: Outcome,
    /// Milliseconds since 1970 UTC.
    pub at: i64,
}

/// An answer as words.
pub struct Words {
    words: [u64; ANSWER_WORDS],
    used: usize,
}

impl Words {
    /// Those that it needs.
    pub fn used(&self) -> &[u64] {
        &self.words[..self.used]
    }
}

/// Writes an answer; `None` where it has more text than there is room, or no server said it.
pub fn encode(outcome: &Outcome, at: i64) -> Option<Words> {
    let (kind, reply, fault, retry_after) = match outcome {
        Outcome::Accepted(reply) => (ACCEPTED, reply, None, None),
        Outcome::Deferred { reply, fault, retry_after } => (DEFERRED, reply, Some(fault), *retry_after),
        Outcome::Rejected { reply, fault } => (REJECTED, reply, Some(fault), None),
        Outcome::NotAttempted { .. } | Outcome::Unknown { .. } => return None,
    };
    let text = reply.text.as_bytes();
    let used = HEAD_WORDS + text.len().div_ceil(WORD_OCTETS);
    if used > ANSWER_WORDS {
        return None;
    }
    let fault = match fault {
        Some(fault) => FAULTS.iter().position(|known| known == fault)? as u8 + 1,
        None => 0,
    };
    let [code, length] = [reply.code, text.len() as u16].map(u16::to_le_bytes);
    let mut words = [0; ANSWER_WORDS];
    words[0] = u64::from_le_bytes([kind, fault, code[0], code[1], length[0], length[1], 0, 0]);
    words[1] = reply.enhanced.map_or(0, |EnhancedCode(class, subject, detail)| {
        let [subject, detail] = [subject, detail].map(u16::to_le_bytes);
        u64::from_le_bytes([ENHANCED, class, subject[0], subject[1], detail[0], detail[1], 0, 0])
    });
    words[2] = match retry_after {
        Some(wait) => u64::try_from(wait.as_nanos()).ok()?.checked_add(1)?,
        None => 0,
    };
    words[3] = at as u64;
    for (word, octets) in words[HEAD_WORDS..].iter_mut().zip(text.chunks(WORD_OCTETS)) {
        let mut whole = [0; WORD_OCTETS];
        whole[..octets.len()].copy_from_slice(octets);
        *word = u64::from_le_bytes(whole);
    }
    Some(Words { words, used })
}

/// Reads an answer; `None` where the words are none. What stands behind those that it needs does not matter.
pub fn decode(words: &[u64; ANSWER_WORDS]) -> Option<Answer> {
    let [what, enhanced, wait, at] = words[..HEAD_WORDS].try_into().ok()?;
    let [kind, fault, code @ .., _, _] = what.to_le_bytes();
    let [code, length] = [[code[0], code[1]], [code[2], code[3]]].map(u16::from_le_bytes);
    let enhanced = match enhanced.to_le_bytes() {
        [ENHANCED, class, a, b, c, d, ..] => Some(EnhancedCode(class, u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))),
        _ => None,
    };
    let text = words[HEAD_WORDS..].iter().flat_map(|word| word.to_le_bytes()).take(length.into()).collect();
    let reply = Reply { code, enhanced, text: String::from_utf8(text).ok()? };
    let fault = usize::from(fault).checked_sub(1).and_then(|place| FAULTS.get(place)).copied();
    let outcome = match kind {
        ACCEPTED => Outcome::Accepted(reply),
        DEFERRED => Outcome::Deferred { reply, fault: fault?, retry_after: wait.checked_sub(1).map(Duration::from_nanos) },
        REJECTED => Outcome::Rejected { reply, fault: fault? },
        _ => return None,
    };
    let at = at as i64;
    let written = encode(&outcome, at)?;
    (written.used() == &words[..written.used]).then_some(Answer { outcome, at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use postwarm_plugin_api::{Cause, Phase};
    use proptest::prelude::*;
    use proptest::{array, option, sample};

    const TEXT_OCTETS: usize = (ANSWER_WORDS - HEAD_WORDS) * WORD_OCTETS;

    prop_compose! {
        fn reply()(
            code in 200..600_u16,
            enhanced in option::of(any::<(u8, u16, u16)>()),
            text in prop_oneof!["[ -~]{0,440}", "\\PC{0,100}"],
        ) -> Reply {
            Reply { code, enhanced: enhanced.map(|(class, subject, detail)| EnhancedCode(class, subject, detail)), text }
        }
    }

    prop_compose! {
        fn answer()(
            reply in reply(),
            fault in sample::select(FAULTS.to_vec()),
            retry_after in option::of((0..1_u64 << 33, 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Duration::new(secs, nanos))),
            kind in 0..3,
            at in any::<i64>(),
        ) -> Answer {
            let outcome = match kind {
                0 => Outcome::Accepted(reply),
                1 => Outcome::Deferred { reply, fault, retry_after },
                _ => Outcome::Rejected { reply, fault },
            };
            Answer { outcome, at }
        }
    }

    fn accepted(text: &str) -> Outcome {
        Outcome::Accepted(Reply { code: 250, enhanced: Some(EnhancedCode(2, 0, 0)), text: text.to_owned() })
    }

    /// What a place holds where something else stood before.
    fn over(before: u64, answer: &Answer) -> [u64; ANSWER_WORDS] {
        let mut words = [before; ANSWER_WORDS];
        let written = encode(&answer.outcome, answer.at).unwrap();
        words[..written.used].copy_from_slice(written.used());
        words
    }

    proptest! {
        #[test]
        fn an_answer_reads_back_whatever_stood_there_before(answer in answer(), before in any::<u64>()) {
            prop_assert_eq!(decode(&over(before, &answer)), Some(answer));
        }

        #[test]
        fn words_that_were_changed_are_another_answer_or_none(answer in answer(), at in 0..ANSWER_WORDS, word in any::<u64>(), bit in 0..64) {
            for changed in [word, over(0, &answer)[at] ^ 1_u64 << bit] {
                let mut words = over(0, &answer);
                words[at] = changed;
                if let Some(read) = decode(&words) {
                    let written = encode(&read.outcome, read.at).unwrap();
                    prop_assert_eq!(written.used(), &words[..written.used]);
                }
            }
        }

        #[test]
        fn words_of_anything_else_are_none(words in array::uniform32(any::<u64>())) {
            let mut all = [0; ANSWER_WORDS];
            all[..words.len()].copy_from_slice(&words);
            prop_assert_eq!(decode(&all), None);
        }
    }

    #[test]
    fn no_words_are_no_answer() {
        assert_eq!(decode(&[0; ANSWER_WORDS]), None);
        assert_eq!(decode(&[u64::MAX; ANSWER_WORDS]), None);
    }

    #[test]
    fn what_is_too_long_is_not_written_and_what_just_fits_is() {
        let just = Answer { outcome: accepted(&"x".repeat(TEXT_OCTETS)), at: 7 };
        assert_eq!(decode(&over(0, &just)), Some(just));
        assert!(encode(&accepted(&"x".repeat(TEXT_OCTETS + 1)), 7).is_none());
        assert!(encode(&accepted(&"x".repeat(100_000)), 7).is_none());
        let reply = Reply { code: 450, enhanced: None, text: String::new() };
        let never = Outcome::Deferred { reply, fault: Fault::Network, retry_after: Some(Duration::MAX) };
        assert!(encode(&never, 7).is_none());
    }

    #[test]
    fn what_no_server_said_is_not_written() {
        let unknown = Outcome::Unknown { phase: Phase::EndOfData, detail: String::new() };
        let unsent = Outcome::NotAttempted { cause: Cause::Connect, detail: String::new() };
        assert!(encode(&unknown, 7).is_none() && encode(&unsent, 7).is_none());
    }
}
