//! Clients are made apart: what a plugin takes for it is no worker's time.

use super::fixture::*;
use super::script::Script;
use crate::clock::SystemClock;
use crate::config::settings::{Organization, SmtpEntry};
use crate::warmup::engine::MakeClient;
use crate::warmup::engine::organizations::Organizations;
use crate::warmup::engine::returns::Back;
use crate::warmup::sqlite::SqliteStore;
use crate::warmup::store::Store;
use postwarm_plugin_api::SmtpClient;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Makes a client once the test says so.
struct Waits {
    asked: Arc<Notify>,
    go: Mutex<mpsc::Receiver<()>>,
    script: Script,
}

impl MakeClient for Waits {
    fn make(&self, organization: &Organization, entry: &SmtpEntry) -> Result<Arc<dyn SmtpClient>, String> {
        self.asked.notify_one();
        let said = self.go.lock().unwrap().recv_timeout(Duration::from_secs(5));
        said.map_err(|_| "nothing else runs while a client is made".to_owned())?;
        self.script.make(organization, entry)
    }
}

#[tokio::test]
async fn other_tasks_run_while_a_client_is_made_and_one_that_did_not_change_is_not_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&folder.path().join("warmup.db")).unwrap());
    let (asked, (say, go)) = (Arc::new(Notify::new()), mpsc::channel());
    let makes = Arc::new(Waits { asked: asked.clone(), go: Mutex::new(go), script: Script::default() });
    let back = Back { returns: Arc::default(), clock: Arc::new(SystemClock) };
    let mut organizations = Organizations::new(store.clone(), makes, Arc::new(Unsigned), back, Handle::current());
    let answer_one = async || {
        asked.notified().await;
        say.send(()).unwrap();
    };

    let one = settings(1, |_| {});
    let (taken, ()) = tokio::join!(organizations.take(&one), answer_one());
    taken.unwrap();
    let acme = store.organization(one.organizations.keys().next().unwrap()).await.unwrap();
    let first = organizations.get(acme).unwrap().client(0);

    let two = settings(2, |organization| organization.smtp.reverse());
    let (taken, ()) = tokio::join!(organizations.take(&two), answer_one());
    taken.unwrap();
    let running = organizations.get(acme).unwrap();
    assert_eq!(running.client(1), first, "only the new one was asked for");
    assert_ne!(running.client(0).1, first.1);
}
