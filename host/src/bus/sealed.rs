//! A batch as the outbox and the embedded log store it: it goes from one into the other as it is.
//!
//! All its records are of one topic, and its head tells what is to be known of them on the way. A large batch is packed (LZ4): records
//! of one turn differ in little, so that a fraction of the octets is written.
//!
//! Invariant: what is opened is what was sealed, or an error; damage behind a head is found there, by whoever opens it. Numbers are little endian.

use crate::bus::Topic;
use crate::bus::batch::{Batch, BatchError, FORMAT, array, topic};
use std::borrow::Cow;

/// The first octet of a sealed batch. Topic (one octet), count (four), instants of the oldest and the newest record (eight each) follow,
/// then the batch, which earlier programs stored alone.
const SEALED: u8 = 3;
const HEAD_OCTETS: usize = 22;
/// The first octet of a batch that is packed: the number of octets that it becomes follows (four), then an LZ4 block.
const PACKED: u8 = 2;
/// What is smaller is stored as it is.
const PACKED_MIN: usize = 2 * 1024;
/// LZ4 makes at most so many octets of one; what claims more is no packed batch.
const PACKED_PART_MAX: usize = 255;

/// Records of one topic, one at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub topic: Topic,
    pub count: usize,
    /// When the first event of them happened, in milliseconds since 1970 UTC.
    pub oldest: i64,
    pub newest: i64,
    stored: Vec<u8>,
}

/// Records by topic.
#[derive(Debug, Default)]
pub struct Batches([Batch; 3]);

impl Batches {
    /// Where records of this topic, and of no other, are pushed.
    pub fn of(&mut self, topic: Topic) -> &mut Batch {
        &mut self.0[topic as usize]
    }

    pub fn clear(&mut self) {
        self.0.iter_mut().for_each(Batch::clear);
    }

    /// Seals what there is.
    pub fn seal(&self) -> Vec<Sealed> {
        // An email's end behind those of its recipients.
        let order = [Topic::Recipients, Topic::Emails, Topic::Facts];
        order.map(|topic| (topic, &self.0[topic as usize])).into_iter().filter(|(_, batch)| !batch.is_empty()).map(seal).collect()
    }
}

impl Batch {
    /// Seals its records, topic by topic.
    pub fn seal(&self) -> Vec<Sealed> {
        let mut batches = Batches::default();
        self.records().for_each(|record| batches.of(record.topic).push(&record));
        batches.seal()
    }
}

impl Sealed {
    /// Reads what was stored. What an earlier program stored may become several.
    ///
    /// # Errors
    /// Its head is not one that `seal` writes, or no batch is behind it.
    pub fn read(stored: Vec<u8>) -> Result<Vec<Sealed>, BatchError> {
        let Some(mut rest) = stored.strip_prefix(&[SEALED]) else {
            return Ok(open(&stored)?.seal());
        };
        let topic = topic(array::<1>(&mut rest)?[0])?;
        let count = u32::from_le_bytes(array(&mut rest)?) as usize;
        let [oldest, newest] = [i64::from_le_bytes(array(&mut rest)?), i64::from_le_bytes(array(&mut rest)?)];
        let is_head = count > 0 && oldest <= newest && matches!(rest, [FORMAT | PACKED, ..]);
        if is_head { Ok(vec![Sealed { topic, count, oldest, newest, stored }]) } else { Err(BatchError) }
    }

    /// What is stored: `read` takes it.
    pub fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// The batch alone; `unpack` makes a blob of it.
    pub fn packed(&self) -> &[u8] {
        &self.stored[HEAD_OCTETS..]
    }

    /// The records.
    ///
    /// # Errors
    /// They are damaged, or others than the head says.
    pub fn open(&self) -> Result<Batch, BatchError> {
        let batch = open(self.packed())?;
        let is_told = batch.len() == self.count && batch.records().all(|record| record.topic == self.topic);
        if is_told { Ok(batch) } else { Err(BatchError) }
    }
}

/// The records of a batch that was stored without a head, as the embedded log has them.
///
/// # Errors
/// They are damaged.
pub fn open(packed: &[u8]) -> Result<Batch, BatchError> {
    Batch::read(unpack(packed)?.into_owned())
}

fn seal((topic, batch): (Topic, &Batch)) -> Sealed {
    let (mut oldest, mut newest) = (i64::MAX, i64::MIN);
    for record in batch.records() {
        (oldest, newest) = (oldest.min(record.at), newest.max(record.at));
    }
    let (count, blob) = (batch.len(), batch.blob());
    let mut stored = Vec::with_capacity(HEAD_OCTETS + 5 + lz4_flex::block::get_maximum_output_size(blob.len()));
    stored.extend_from_slice(&[SEALED, topic as u8]);
    stored.extend_from_slice(&(count as u32).to_le_bytes());
    stored.extend_from_slice(&oldest.to_le_bytes());
    stored.extend_from_slice(&newest.to_le_bytes());
    pack(blob, &mut stored);
    Sealed { topic, count, oldest, newest, stored }
}

/// Appends the blob as it is stored.
fn pack(blob: &[u8], stored: &mut Vec<u8>) {
    let octets = match u32::try_from(blob.len()) {
        Ok(octets) if blob.len() >= PACKED_MIN => octets,
        _ => return stored.extend_from_slice(blob),
    };
    stored.push(PACKED);
    stored.extend_from_slice(&octets.to_le_bytes());
    let from = stored.len();
    stored.resize(from + lz4_flex::block::get_maximum_output_size(blob.len()), 0);
    let packed = lz4_flex::block::compress_into(blob, &mut stored[from..]).expect("there is room for the worst case");
    stored.truncate(from + packed);
}

/// The blob that was stored.
///
/// # Errors
/// It was packed and is damaged.
pub fn unpack(packed: &[u8]) -> Result<Cow<'_, [u8]>, BatchError> {
    let Some(mut block) = packed.strip_prefix(&[PACKED]) else { return Ok(Cow::Borrowed(packed)) };
    let octets = u32::from_le_bytes(array(&mut block)?) as usize;
    if octets > block.len().saturating_mul(PACKED_PART_MAX) {
        return Err(BatchError);
    }
    let mut blob = room(octets);
    let filled = lz4_flex::block::decompress_into(block, &mut blob).map_err(|_| BatchError)?;
    if filled == octets { Ok(Cow::Owned(blob)) } else { Err(BatchError) }
}

/// So many octets. Where zeros are asked for, jemalloc gives the system the memory that it has and lets it come back page by page.
fn room(octets: usize) -> Vec<u8> {
    let mut room = Vec::with_capacity(octets + 1);
    room.push(1);
    room.resize(octets + 1, 0);
    room.truncate(octets);
    room
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Record;
    use crate::bus::contract::record;

    /// So many records, as a turn makes them.
    fn batch_of(count: i64) -> Batch {
        (0..count).map(|n| record(Topic::Recipients, &format!("acme/{n}"), n)).collect()
    }

    fn sealed(batch: &Batch) -> Sealed {
        let [sealed] = batch.seal().try_into().unwrap();
        sealed
    }

    #[test]
    fn a_sealed_batch_comes_back_as_it_was_and_a_large_one_in_fewer_octets() {
        for count in 1..=200 {
            let batch = batch_of(count);
            let sealed = sealed(&batch);
            assert_eq!(sealed.packed()[0] == PACKED, batch.blob().len() >= PACKED_MIN, "{count}");
            assert_eq!(Sealed::read(sealed.stored().to_vec()), Ok(vec![sealed.clone()]), "{count}");
            assert_eq!(sealed.open(), Ok(batch), "{count}");
        }
        let batch = batch_of(200);
        let octets = sealed(&batch).stored().len();
        assert!(octets * 3 < batch.blob().len(), "{octets} of {}", batch.blob().len());
    }

    #[test]
    fn its_head_tells_topic_count_and_the_oldest_and_newest_instant() {
        let batch: Batch = [7, i64::MIN, i64::MAX].map(|at| record(Topic::Facts, "a", at)).into_iter().collect();
        let Sealed { topic, count, oldest, newest, .. } = sealed(&batch);
        assert_eq!((topic, count, oldest, newest), (Topic::Facts, 3, i64::MIN, i64::MAX));
        assert_eq!(Batch::default().seal(), []);
    }

    #[test]
    fn each_topic_is_sealed_by_itself_and_its_records_stay_in_order() {
        let topics = [Topic::Facts, Topic::Emails, Topic::Recipients, Topic::Facts, Topic::Emails];
        let batch: Batch = topics.into_iter().zip(0..).map(|(topic, n)| record(topic, "a", n)).collect();
        let seen: Vec<(Topic, Vec<i64>)> =
            batch.seal().iter().map(|sealed| (sealed.topic, sealed.open().unwrap().records().map(|r| r.at).collect())).collect();
        assert_eq!(seen, [(Topic::Recipients, vec![2]), (Topic::Emails, vec![1, 4]), (Topic::Facts, vec![0, 3])]);
    }

    /// A record as it has stood in files since the first build: with payload `p`, and texts of one letter before it.
    fn octets(topic: u8) -> Vec<u8> {
        let at = [topic, 1, 0, 0, 0, 0, 0, 0, 0];
        let texts = b"kitop".iter().flat_map(|letter| [1, 0, 0, 0, *letter]);
        at.into_iter().chain(texts).collect()
    }

    fn told(octets: Vec<u8>) -> Vec<(Topic, i64, String)> {
        let batches = Sealed::read(octets).unwrap();
        let text = |record: Record<'_>| {
            let texts = [record.key, record.id, record.kind, record.org, record.payload].concat();
            (record.topic, record.at, String::from_utf8(texts).unwrap())
        };
        batches.iter().flat_map(|batch| batch.open().unwrap().records().map(text).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn what_files_have_is_read_as_it_stands() {
        let one = |topic| (topic, 1, "kitop".to_owned());
        let plain = [vec![1], octets(1), octets(0)].concat();
        assert_eq!(told(plain.clone()), [one(Topic::Recipients), one(Topic::Emails)], "topics are mixed");
        // An LZ4 block of literals alone: 69 of them, 15 in the token and 54 behind it.
        let packed = [vec![2, 69, 0, 0, 0, 0xf0, 54], plain].concat();
        assert_eq!(told(packed), [one(Topic::Recipients), one(Topic::Emails)]);
        let head = [3, 2, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(told([head.to_vec(), vec![1], octets(2), octets(2)].concat()), [one(Topic::Facts), one(Topic::Facts)]);
        assert_eq!(told(vec![1]), []);
    }

    #[test]
    fn what_is_damaged_is_an_error_and_takes_no_more_memory_than_it_could_have_become() {
        for batch in [batch_of(1), batch_of(100)] {
            let sealed = sealed(&batch);
            let read =
                |stored: &[u8]| Sealed::read(stored.to_vec()).and_then(|all| all.iter().map(Sealed::open).collect::<Result<Vec<_>, _>>());
            for end in 1..sealed.stored().len() {
                assert_eq!(read(&sealed.stored()[..end]), Err(BatchError), "{end}");
            }
            // Another topic, another count, instants that are none, another first octet of the batch.
            for (at, octet) in [(1, 0), (1, 9), (2, 0), (2, 9), (13, 0x7f), (HEAD_OCTETS, 9)] {
                let mut other = sealed.stored().to_vec();
                other[at] = octet;
                assert_eq!(read(&other), Err(BatchError), "{at}");
            }
            assert_eq!(Sealed::read(sealed.stored()[..HEAD_OCTETS].to_vec()), Err(BatchError), "a head alone");
        }
        let stored = sealed(&batch_of(100)).packed().to_vec();
        for octets in [0, 1, u32::MAX] {
            let mut other = stored.clone();
            other[1..5].copy_from_slice(&octets.to_le_bytes());
            assert_eq!(unpack(&other), Err(BatchError), "{octets}");
        }
    }

    #[test]
    fn records_of_every_size_come_back() {
        let payload = vec![b'x'; 70_000];
        let mut batch = Batch::default();
        for octets in [0, 1, PACKED_MIN, payload.len()] {
            batch.push(&Record { topic: Topic::Emails, at: 0, key: b"", id: b"", kind: b"", org: b"", payload: &payload[..octets] });
            assert_eq!(sealed(&batch).open().as_ref(), Ok(&batch), "{octets}");
        }
    }
}
