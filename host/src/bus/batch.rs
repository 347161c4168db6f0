//! Records that are written together as one blob, as the outbox and the embedded log keep them.
//!
//! Invariant: `decode` gives back what `encode` got, or an error. Numbers are little endian; each text has its length
//! before it.

use crate::bus::{Record, Topic};

/// The first octet of a batch.
const FORMAT: u8 = 1;
/// What a record takes up besides its texts: topic, instant, five lengths.
const FIXED_OCTETS: usize = 1 + 8 + 5 * 4;
const TOPICS: [Topic; 3] = [Topic::Emails, Topic::Recipients, Topic::Facts];

/// The blob is not one that `encode` made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a batch of records is damaged, or a later program wrote it")]
pub struct BatchError;

/// Writes the records one after another.
pub fn encode<'a>(records: impl Iterator<Item = &'a Record> + Clone) -> Vec<u8> {
    let octets = |r: &Record| FIXED_OCTETS + texts(r).iter().map(|text| text.len()).sum::<usize>();
    let mut blob = Vec::with_capacity(1 + records.clone().map(octets).sum::<usize>());
    blob.push(FORMAT);
    for record in records {
        blob.push(record.topic as u8);
        blob.extend_from_slice(&record.at.to_le_bytes());
        for text in texts(record) {
            blob.extend_from_slice(&(text.len() as u32).to_le_bytes());
            blob.extend_from_slice(text);
        }
    }
    blob
}

fn texts(record: &Record) -> [&[u8]; 5] {
    [record.key.as_bytes(), record.id.as_bytes(), record.kind.as_bytes(), record.org.as_bytes(), &record.payload]
}

/// Reads a batch.
pub fn decode(blob: &[u8]) -> Result<Vec<Record>, BatchError> {
    let mut rest = blob.strip_prefix(&[FORMAT]).ok_or(BatchError)?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let topic = *TOPICS.get(usize::from(array::<1>(&mut rest)?[0])).ok_or(BatchError)?;
        let at = i64::from_le_bytes(array(&mut rest)?);
        let mut text = || -> Result<&[u8], BatchError> {
            let length = u32::from_le_bytes(array(&mut rest)?);
            take(&mut rest, length as usize)
        };
        let (key, id, kind, org, payload) = (text()?, text()?, text()?, text()?, text()?);
        let owned = |text: &[u8]| std::str::from_utf8(text).map(str::to_owned).map_err(|_| BatchError);
        records.push(Record {
            topic,
            at,
            key: owned(key)?,
            id: owned(id)?,
            kind: owned(kind)?.into(),
            org: owned(org)?,
            payload: payload.to_vec(),
        });
    }
    Ok(records)
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
            assert_eq!(decode(&encode(records[..count].iter())).unwrap(), &records[..count]);
        }
    }

    #[test]
    fn a_blob_that_ends_early_or_has_another_format_is_an_error() {
        let blob = encode([record(Topic::Emails, "a", 1)].iter());
        for end in (0..blob.len()).filter(|end| *end != 1) {
            assert_eq!(decode(&blob[..end]), Err(BatchError), "{end}");
        }
        let mut other = blob;
        other[0] = 2;
        assert_eq!(decode(&other), Err(BatchError));
    }
}
