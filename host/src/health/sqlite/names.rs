//! Names that the ledger stores once, and their numbers.
//!
//! Invariant: the memory is bounded; a failed commit forgets it, for its numbers may not exist.

use crate::db::writer::Memory;
use crate::model::name::OrgName;
use crate::model::number_map::NumberMap;
use rusqlite::{Connection, OptionalExtension};
use std::collections::HashMap;
use std::sync::Arc;

/// Names of a kind that are remembered; further ones are looked up again.
const REMEMBERED_MAX: usize = 4096;

#[derive(Default)]
pub struct Names {
    orgs: HashMap<OrgName, i64>,
    domains: HashMap<Arc<str>, i64>,
    providers: HashMap<Arc<str>, i64>,
    /// By domain and provider.
    places: NumberMap<(i64, i64), i64>,
    /// The numbers of emails in the ledger, by organization and email.
    emails: NumberMap<(i64, i64), i64>,
}

impl Memory for Names {
    fn rolled_back(&mut self) {
        *self = Names::default();
    }
}

impl Names {
    pub fn org(&mut self, db: &Connection, name: &OrgName) -> rusqlite::Result<i64> {
        if let Some(id) = self.orgs.get(name) {
            return Ok(*id);
        }
        let id = number(db, "orgs", name.as_str())?;
        self.orgs.insert(name.clone(), id);
        Ok(id)
    }

    /// The number of a recipient domain and its provider together.
    pub fn place(&mut self, db: &Connection, domain: &Arc<str>, provider: &Arc<str>) -> rusqlite::Result<i64> {
        let domain = remembered(&mut self.domains, db, "domains", domain)?;
        let provider = remembered(&mut self.providers, db, "providers", provider)?;
        if let Some(id) = self.places.get(&(domain, provider)) {
            return Ok(*id);
        }
        let add = "INSERT INTO places (domain, provider) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET provider = provider RETURNING id";
        let id = db.prepare_cached(add)?.query_row((domain, provider), |r| r.get(0))?;
        bounded(&mut self.places).insert((domain, provider), id);
        Ok(id)
    }

    /// The number of an email whose events have come.
    pub fn email(&mut self, db: &Connection, key: (i64, i64)) -> rusqlite::Result<Option<i64>> {
        if let Some(id) = self.emails.get(&key) {
            return Ok(Some(*id));
        }
        let found = find_email(db, key)?;
        if let Some(id) = found {
            bounded(&mut self.emails).insert(key, id);
        }
        Ok(found)
    }
}

/// The number of an email whose events have come.
pub fn find_email(db: &Connection, key: (i64, i64)) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM emails WHERE org = ?1 AND email = ?2")?.query_row(key, |r| r.get(0)).optional()
}

/// The number of a name that must be there already.
pub fn find_org(db: &Connection, name: &OrgName) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM orgs WHERE name = ?1")?.query_row([name.as_str()], |r| r.get(0)).optional()
}

fn remembered(known: &mut HashMap<Arc<str>, i64>, db: &Connection, table: &str, name: &Arc<str>) -> rusqlite::Result<i64> {
    if let Some(id) = known.get(name) {
        return Ok(*id);
    }
    let id = number(db, table, name)?;
    bounded(known).insert(name.clone(), id);
    Ok(id)
}

fn bounded<K, V, S>(known: &mut HashMap<K, V, S>) -> &mut HashMap<K, V, S> {
    if known.len() >= REMEMBERED_MAX {
        known.clear();
    }
    known
}

fn number(db: &Connection, table: &str, name: &str) -> rusqlite::Result<i64> {
    let found = db.prepare_cached(&format!("SELECT id FROM {table} WHERE name = ?1"))?.query_row([name], |r| r.get(0)).optional()?;
    match found {
        Some(id) => Ok(id),
        None => {
            db.prepare_cached(&format!("INSERT INTO {table} (name) VALUES (?1)"))?.execute([name])?;
            Ok(db.last_insert_rowid())
        }
    }
}
