//! How fast the recipients of an email become rows.

use crate::product::content::Content;
use crate::product::service::Service;
use crate::product::setup::Setup;
use crate::product::wait_for;
use crate::sinks::Address;
use rusqlite::{Connection, OpenFlags};
use std::time::{Duration, Instant};

/// The longest that the rows are waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Lets one message go, the smallest limit that there is, so that nothing but the rows is measured.
const ALMOST_NOTHING: &str = "limits = { per_day = 1 }";

/// Recipients enqueued a second, from before `POST /send` until every row is committed.
pub fn enqueue(sink: Address, recipients: usize) -> f64 {
    let service = Service::start(&Setup { head: ALMOST_NOTHING, ..Setup::to(sink) }, &[]);
    wait_for(async {
        service.import(recipients).await;
        let rows = Connection::open_with_flags(service.data().join("warmup.db"), OpenFlags::SQLITE_OPEN_READ_ONLY);
        let rows = rows.expect("the database can be read");
        // No answer tells it: `counts` and lists speak of the frozen audience. How far fan-out is stands beside the counts.
        let mut last =
            rows.prepare("SELECT coalesce(max(fanned_out), 0) FROM progress WHERE org = 1 AND number = 1").expect("the rows have keys");
        let begun = Instant::now();
        service.send(&Content::Text.request()).await;
        loop {
            let found: i64 = last.query_row([], |row| row.get(0)).expect("the rows can be read");
            if found >= recipients as i64 {
                return recipients as f64 / begun.elapsed().as_secs_f64();
            }
            assert!(begun.elapsed() < PATIENCE, "{found} of {recipients} are rows");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
}
