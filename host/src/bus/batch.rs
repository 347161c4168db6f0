//! Records that are written together as one blob.
//!
//! A record is written into its batch and read out of it where it stands.
//!
//! Invariant: what is read is what was pushed, or an error. Numbers are little endian; each text has its length before it.

use crate::bus::{Record, Topic};

/// The first octet of a batch.
pub const FORMAT: u8 = 1;
/// Room for a record of one recipient, so that writing it allocates once.
const RECORD_OCTETS: usize = 512;
const TOPICS: [Topic; 3] = [Topic::Emails, Topic::Recipients, Topic::Facts];

/// The blob is not one that a `Batch` made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a batch of records is damaged, or a later program wrote it")]
pub struct BatchError;

/// Records, one after another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Nothing where there is no record.
    blob: Vec<u8>,
    count: usize,
}

/// A record that is being written: its five texts follow in their order.
pub struct Texts<'a>(&'a mut Vec<u8>);

impl Batch {
    /// Reads a blob.
    ///
    /// # Errors
    /// It is not whole, or no batch.
    pub fn read(blob: Vec<u8>) -> Result<Batch, BatchError> {
        let mut count = 0;
        for record in records(&blob)? {
            record?;
            count += 1;
        }
        Ok(Batch { blob: if count > 0 { blob } else { Vec::new() }, count })
    }

    /// The records behind each other; nothing where there is none.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn clear(&mut self) {
        self.blob.clear();
        self.count = 0;
    }

    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        // What stands here was pushed or has been read.
        Records(self.blob.get(1..).unwrap_or_default()).map_while(Result::ok)
    }

    /// Adds a record whose texts (key, id, kind, organization, payload) the caller writes.
    pub fn begin(&mut self, topic: Topic, at: i64) -> Texts<'_> {
        if self.count == 0 {
            self.blob.reserve(RECORD_OCTETS);
            self.blob.push(FORMAT);
        }
        self.count += 1;
        self.blob.push(topic as u8);
        self.blob.extend_from_slice(&at.to_le_bytes());
        Texts(&mut self.blob)
    }

    pub fn push(&mut self, record: &Record<'_>) {
        let mut texts = self.begin(record.topic, record.at);
        for text in [record.key, record.id, record.kind, record.org, record.payload] {
            texts = texts.text(text);
        }
    }

    /// Adds the records of another.
    #[cfg(test)]
    pub fn append(&mut self, other: &Batch) {
        let from = usize::from(self.count > 0);
        self.blob.extend_from_slice(other.blob.get(from..).unwrap_or_default());
        self.count += other.count;
    }
}

impl<'a> Texts<'a> {
    /// The next text.
    pub fn text(self, text: &[u8]) -> Texts<'a> {
        self.written(|out| out.extend_from_slice(text))
    }

    /// The next text, which `write` appends.
    pub fn written(self, write: impl FnOnce(&mut Vec<u8>)) -> Texts<'a> {
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        write(self.0);
        let length = (self.0.len() - at - 4) as u32;
        self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
        self
    }
}

#[cfg(test)]
impl FromIterator<Batch> for Batch {
    fn from_iter<I: IntoIterator<Item = Batch>>(batches: I) -> Batch {
        let mut all = Batch::default();
        batches.into_iter().for_each(|batch| all.append(&batch));
        all
    }
}

/// The records of a blob as they stand in it.
///
/// # Errors
/// The blob is no batch; an item is an error where it ends early.
pub fn records(blob: &[u8]) -> Result<Records<'_>, BatchError> {
    blob.strip_prefix(&[FORMAT]).map(Records).ok_or(BatchError)
}

/// Reads on until the end or the first error.
pub struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = record(&mut self.0);
        if read.is_err() {
            self.0 = &[];
        }
        Some(read)
    }
}

/// The topic of this number.
pub fn topic(number: u8) -> Result<Topic, BatchError> {
    TOPICS.get(usize::from(number)).copied().ok_or(BatchError)
}

fn record<'a>(rest: &mut &'a [u8]) -> Result<Record<'a>, BatchError> {
    let topic = topic(array::<1>(rest)?[0])?;
    let at = i64::from_le_bytes(array(rest)?);
    let mut text = || {
        let length = u32::from_le_bytes(array(rest)?);
        take(rest, length as usize)
    };
    Ok(Record { topic, at, key: text()?, id: text()?, kind: text()?, org: text()?, payload: text()? })
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], BatchError> {
    let (taken, after) = rest.split_at_checked(count).ok_or(BatchError)?;
    *rest = after;
    Ok(taken)
}

/// Takes the next octets.
pub fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BatchError> {
    take(rest, N)?.try_into().map_err(|_| BatchError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::contract::record;

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let records = [record(Topic::Emails, "a", 1), record(Topic::Facts, "", i64::MIN), record(Topic::Recipients, "schlüssel", i64::MAX)];
        for count in 1..=records.len() {
            let batch: Batch = records[..count].iter().cloned().collect();
            let read = Batch::read(batch.blob().to_vec()).unwrap();
            assert_eq!((read.len(), &read), (count, &batch));
            assert!(read.records().eq(records[..count].iter().flat_map(Batch::records)));
            let mut pushed = Batch::default();
            batch.records().for_each(|record| pushed.push(&record));
            assert_eq!(pushed, batch);
        }
        let Record { topic, at, key, id, .. } = records[2].records().next().unwrap();
        assert_eq!(
            (topic, at, key, id),
            (Topic::Recipients, i64::MAX, "schlüssel".as_bytes(), format!("schlüssel/{}", i64::MAX).as_bytes())
        );
    }

    #[test]
    fn a_blob_that_ends_early_or_has_another_format_is_an_error() {
        let blob = record(Topic::Emails, "a", 1).blob().to_vec();
        for end in (0..blob.len()).filter(|end| *end != 1) {
            assert_eq!(Batch::read(blob[..end].to_vec()), Err(BatchError), "{end}");
            assert!(!records(&blob[..end]).is_ok_and(|mut records| records.all(|record| record.is_ok())), "{end}");
        }
        let mut other = blob;
        other[0] = 9;
        assert_eq!(Batch::read(other), Err(BatchError));
    }
}
