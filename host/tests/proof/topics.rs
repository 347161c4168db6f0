//! What the topics tell, read by another program than the one that wrote it: the log's file opened read-only, or kcat.

use crate::check::Change;
use crate::harness::Site;
use crate::harness::kafka::{Event, Kafka};
use postwarm::bus::sealed;
use rusqlite::{Connection, OpenFlags};

/// Every record of the two topics of mail, in the order of the log.
#[derive(Debug, Default)]
pub struct Told {
    pub changes: Vec<Change>,
    /// Number of the email and what became of it.
    pub progress: Vec<(i64, String)>,
}

impl Told {
    /// Of the embedded log in the data folder.
    pub fn embedded(site: &Site) -> Told {
        let path = site.data().join("events.db");
        let log = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let ids = |table: &str| -> Vec<String> {
            let mut rows = log.prepare(&format!("SELECT batch FROM {table} ORDER BY first")).unwrap();
            let batches = rows.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
            let batches = batches.map(|batch| sealed::open(&batch.unwrap()).unwrap());
            batches
                .flat_map(|batch| batch.records().map(|record| String::from_utf8(record.id.to_vec()).unwrap()).collect::<Vec<_>>())
                .collect()
        };
        Told::of(ids("recipients"), ids("emails"))
    }

    /// Of a broker.
    pub async fn kafka(kafka: &Kafka) -> Told {
        let ids = |events: Vec<Event>| events.into_iter().map(|event| event.id).collect();
        Told::of(ids(kafka.read(&kafka.recipients).await), ids(kafka.read(&kafka.emails).await))
    }

    fn of(recipients: Vec<String>, emails: Vec<String>) -> Told {
        let progress = |id: &String| {
            let parts: Vec<&str> = id.split('/').collect();
            (parts[1].parse().unwrap(), parts[2].to_owned())
        };
        Told { changes: recipients.iter().map(|id| change(id)).collect(), progress: emails.iter().map(progress).collect() }
    }
}

/// `ORG/EMAIL/USER/ATTEMPT/STATE`
fn change(id: &str) -> Change {
    let parts: Vec<&str> = id.split('/').collect();
    let [_, email, user, attempt, state] = parts[..] else { panic!("an id of the recipients' topic: {id}") };
    Change { email: email.parse().unwrap(), user: user.parse().unwrap(), attempt: attempt.parse().unwrap(), state: state.to_owned() }
}
