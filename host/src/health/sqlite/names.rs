//! Names that the ledger stores once, and their numbers.
//!
//! Invariant: the memory is bounded; a failed commit forgets it, for its numbers may not exist.

use crate::db::writer::Memory;
use crate::model::name::OrgName;
use rusqlite::{Connection, OptionalExtension};
use std::collections::HashMap;
use std::sync::Arc;

/// Domains that are remembered; further ones are looked up again.
const REMEMBERED_MAX: usize = 4096;

#[derive(Default)]
pub struct Names {
    orgs: HashMap<OrgName, i64>,
    domains: HashMap<Arc<str>, i64>,
    providers: HashMap<Arc<str>, i64>,
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

    pub fn domain(&mut self, db: &Connection, name: &Arc<str>) -> rusqlite::Result<i64> {
        remembered(&mut self.domains, db, "domains", name)
    }

    pub fn provider(&mut self, db: &Connection, name: &Arc<str>) -> rusqlite::Result<i64> {
        remembered(&mut self.providers, db, "providers", name)
    }
}

/// The number of a name that must be there already.
pub fn find_org(db: &Connection, name: &OrgName) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM orgs WHERE name = ?1")?.query_row([name.as_str()], |r| r.get(0)).optional()
}

fn remembered(known: &mut HashMap<Arc<str>, i64>, db: &Connection, table: &str, name: &Arc<str>) -> rusqlite::Result<i64> {
    if let Some(id) = known.get(name) {
        return Ok(*id);
    }
    if known.len() >= REMEMBERED_MAX {
        known.clear();
    }
    let id = number(db, table, name)?;
    known.insert(name.clone(), id);
    Ok(id)
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
