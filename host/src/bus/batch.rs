//! Records that are written together as one blob, as the outbox and the embedded log keep them.
//!
//! A record is written into its batch and read out of it where it stands: on its way from outbox to log no text of it is copied
//! alone. A large batch is stored packed (LZ4): records of one turn differ in little, so that a fraction of the octets is written.
//!
//! Invariant: what is read is what was pushed, or an error. Numbers are little endian; each text has its length before it.

use crate::bus::{Record, Topic};
use std::borrow::Cow;

/// The first octet of a batch.
const FORMAT: u8 = 1;
/// The first octet of one that is stored packed: the number of octets that it becomes follows (four), then an LZ4 block.
const PACKED: u8 = 2;
/// What is smaller is stored as it is.
const PACKED_MIN: usize = 2 * 1024;
/// LZ4 makes at most so many octets of one; what claims more is no packed batch.
const PACKED_PART_MAX: usize = 255;
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
    /// Reads what was stored.
    ///
    /// # Errors
    /// It is not whole, or no batch.
    pub fn read(stored: &[u8]) -> Result<Batch, BatchError> {
        let blob = unpack(stored)?;
        let mut count = 0;
        for record in records(&blob)? {
            record?;
            count += 1;
        }
        Ok(Batch { blob: if count > 0 { blob.into_owned() } else { Vec::new() }, count })
    }

    /// What is stored: `read` takes it.
    pub fn stored(&self) -> Cow<'_, [u8]> {
        match u32::try_from(self.blob.len()) {
            Ok(_) if self.is_empty() => Cow::Borrowed(&[FORMAT]),
            Ok(octets) if self.blob.len() >= PACKED_MIN => Cow::Owned(pack(&self.blob, octets)),
            _ => Cow::Borrowed(&self.blob),
        }
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

impl FromIterator<Batch> for Batch {
    fn from_iter<I: IntoIterator<Item = Batch>>(batches: I) -> Batch {
        let batches: Vec<Batch> = batches.into_iter().collect();
        let octets = batches.iter().map(|batch| batch.blob.len()).sum();
        let mut all = Batch { blob: Vec::with_capacity(octets), count: 0 };
        batches.iter().for_each(|batch| all.append(batch));
        all
    }
}

fn pack(blob: &[u8], octets: u32) -> Vec<u8> {
    let head = [&[PACKED][..], &octets.to_le_bytes()].concat();
    let mut stored = vec![0; head.len() + lz4_flex::block::get_maximum_output_size(blob.len())];
    stored[..head.len()].copy_from_slice(&head);
    let packed = lz4_flex::block::compress_into(blob, &mut stored[head.len()..]).expect("there is room for the worst case");
    stored.truncate(head.len() + packed);
    stored
}

/// The blob that was stored.
///
/// # Errors
/// It was packed and is damaged.
pub fn unpack(stored: &[u8]) -> Result<Cow<'_, [u8]>, BatchError> {
    let Some(mut packed) = stored.strip_prefix(&[PACKED]) else { return Ok(Cow::Borrowed(stored)) };
    let octets = u32::from_le_bytes(array(&mut packed)?) as usize;
    if octets > packed.len().saturating_mul(PACKED_PART_MAX) {
        return Err(BatchError);
    }
    let blob = lz4_flex::block::decompress(packed, octets).map_err(|_| BatchError)?;
    if blob.len() == octets { Ok(Cow::Owned(blob)) } else { Err(BatchError) }
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

fn record<'a>(rest: &mut &'a [u8]) -> Result<Record<'a>, BatchError> {
    let topic = *TOPICS.get(usize::from(array::<1>(rest)?[0])).ok_or(BatchError)?;
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

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BatchError> {
    take(rest, N)?.try_into().map_err(|_| BatchError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::contract::record;

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let records = [record(Topic::Emails, "a", 1), record(Topic::Facts, "", i64::MIN), record(Topic::Recipients, "schlüssel", i64::MAX)];
        for count in 0..=records.len() {
            let batch: Batch = records[..count].iter().cloned().collect();
            let read = Batch::read(&batch.stored()).unwrap();
            assert_eq!((read.len(), &read), (count, &batch));
            assert!(read.records().eq(records[..count].iter().flat_map(Batch::records)));
            let mut pushed = Batch::default();
            batch.records().for_each(|record| pushed.push(&record));
            assert_eq!(pushed, batch);
        }
        let facts = Batch::read(&records[2].stored()).unwrap();
        let Record { topic, at, key, id, .. } = facts.records().next().unwrap();
        assert_eq!(
            (topic, at, key, id),
            (Topic::Recipients, i64::MAX, "schlüssel".as_bytes(), format!("schlüssel/{}", i64::MAX).as_bytes())
        );
    }

    #[test]
    fn a_blob_that_ends_early_or_has_another_format_is_an_error() {
        let blob = record(Topic::Emails, "a", 1).stored().into_owned();
        for end in (0..blob.len()).filter(|end| *end != 1) {
            assert_eq!(Batch::read(&blob[..end]), Err(BatchError), "{end}");
            assert!(!records(&blob[..end]).is_ok_and(|mut records| records.all(|record| record.is_ok())), "{end}");
        }
        let mut other = blob;
        other[0] = 3;
        assert_eq!(Batch::read(&other), Err(BatchError));
    }

    /// So many records, as a turn makes them.
    fn batch_of(count: i64) -> Batch {
        (0..count).map(|n| record(Topic::Recipients, &format!("acme/{n}"), n)).collect()
    }

    #[test]
    fn a_large_batch_is_stored_in_fewer_octets_and_comes_back_as_it_was() {
        for count in 1..=200 {
            let batch = batch_of(count);
            let stored = batch.stored();
            assert_eq!(stored[0], if batch.blob.len() < PACKED_MIN { FORMAT } else { PACKED }, "{count}");
            assert_eq!(Batch::read(&stored), Ok(batch.clone()), "{count}");
        }
        let batch = batch_of(200);
        assert!(batch.stored().len() * 3 < batch.blob.len(), "{} of {}", batch.stored().len(), batch.blob.len());
    }

    #[test]
    fn a_packed_batch_that_is_damaged_is_an_error_and_takes_no_more_memory_than_it_could_have_become() {
        let stored = batch_of(100).stored().into_owned();
        for end in 1..stored.len() {
            assert_eq!(Batch::read(&stored[..end]), Err(BatchError), "{end}");
        }
        for octets in [0, 1, u32::MAX] {
            let mut other = stored.clone();
            other[1..5].copy_from_slice(&octets.to_le_bytes());
            assert_eq!(Batch::read(&other), Err(BatchError), "{octets}");
        }
    }
}
