//! What the other files share: cached numbers of names, heads of emails, columns of a row.

use crate::bus::sealed::Batches;
use crate::db::DbError;
use crate::db::writer::Memory;
use crate::model::address::Address;
use crate::model::delivery::{Said, State};
use crate::model::message_id::Tokens;
use crate::model::name::{OTHER, OrgId, OrgName};
use crate::model::number_map::NumberMap;
use crate::warmup::metrics::Changes;
use crate::warmup::sqlite::fresh::Fresh;
use crate::warmup::sqlite::sending::Sending;
use crate::warmup::sqlite::sent::Sent;
use postwarm_plugin_api::{Fault, Reply};
use rusqlite::{Connection, OptionalExtension, Row, RowIndex, params};
use std::collections::HashMap;
use std::sync::Arc;

/// The most names kept in memory; beyond it the cache starts anew.
const CACHED_MAX: usize = 10_000;

/// What the writing thread remembers between jobs.
pub struct Context {
    pub tokens: Arc<Tokens>,
    /// What the running job tells.
    pub outgoing: Batches,
    /// What the running job changed, for the metrics.
    pub changes: Changes,
    /// What is under way of three tables, that they need not be read for each change.
    pub sending: Sending,
    pub fresh: Fresh,
    pub sent: Sent,
    orgs: NumberMap<OrgId, OrgName>,
    names: HashMap<String, i64>,
    texts: NumberMap<i64, Arc<str>>,
    domains: HashMap<String, i64>,
    emails: NumberMap<(OrgId, i64), EmailHead>,
}

/// What a turn needs of an email.
#[derive(Clone)]
pub struct EmailHead {
    pub from_domain: Arc<str>,
    /// Live mail is queued from its acceptance on.
    pub created_at: i64,
    /// Something of it has been claimed.
    pub is_started: bool,
}

impl Context {
    pub fn new(tokens: Arc<Tokens>) -> Context {
        Context {
            tokens,
            outgoing: Batches::default(),
            changes: Changes::default(),
            sending: Sending::default(),
            fresh: Fresh::default(),
            sent: Sent::default(),
            orgs: NumberMap::default(),
            names: HashMap::new(),
            texts: NumberMap::default(),
            domains: HashMap::new(),
            emails: NumberMap::default(),
        }
    }

    pub fn org_id(&mut self, connection: &Connection, name: &OrgName) -> Result<OrgId, DbError> {
        connection.prepare_cached("INSERT OR IGNORE INTO organizations (name) VALUES (?1)")?.execute([name.as_str()])?;
        let id = connection
            .prepare_cached("SELECT id FROM organizations WHERE name = ?1")?
            .query_row([name.as_str()], |row| row.get(0).map(OrgId))?;
        self.orgs.insert(id, name.clone());
        Ok(id)
    }

    pub fn org_name(&mut self, connection: &Connection, org: OrgId) -> Result<OrgName, DbError> {
        if let Some(name) = self.orgs.get(&org) {
            return Ok(name.clone());
        }
        let text: String =
            connection.prepare_cached("SELECT name FROM organizations WHERE id = ?1")?.query_row([org.0], |row| row.get(0))?;
        let name = OrgName::parse(&text).map_err(DbError::Unavailable)?;
        self.orgs.insert(org, name.clone());
        Ok(name)
    }

    /// The number of a provider's or client's name.
    pub fn name_id(&mut self, connection: &Connection, name: &str) -> Result<i64, DbError> {
        if let Some(id) = self.names.get(name) {
            return Ok(*id);
        }
        connection.prepare_cached("INSERT OR IGNORE INTO names (name) VALUES (?1)")?.execute([name])?;
        let id = connection.prepare_cached("SELECT id FROM names WHERE name = ?1")?.query_row([name], |row| row.get(0))?;
        bounded(&mut self.names).insert(name.to_owned(), id);
        Ok(id)
    }

    /// The name behind a number.
    pub fn name(&mut self, connection: &Connection, id: i64) -> Result<Arc<str>, DbError> {
        if let Some(name) = self.texts.get(&id) {
            return Ok(name.clone());
        }
        let text: String = connection.prepare_cached("SELECT name FROM names WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
        let name: Arc<str> = text.into();
        bounded(&mut self.texts).insert(id, name.clone());
        Ok(name)
    }

    pub fn domain_id(&mut self, connection: &Connection, domain: &str) -> Result<i64, DbError> {
        if let Some(id) = self.domains.get(domain) {
            return Ok(*id);
        }
        let other = self.name_id(connection, OTHER)?;
        connection.prepare_cached("INSERT OR IGNORE INTO domains (name, provider) VALUES (?1, ?2)")?.execute(params![domain, other])?;
        let id = connection.prepare_cached("SELECT id FROM domains WHERE name = ?1")?.query_row([domain], |row| row.get(0))?;
        bounded(&mut self.domains).insert(domain.to_owned(), id);
        Ok(id)
    }

    pub fn email(&mut self, connection: &Connection, org: OrgId, email: i64) -> Result<EmailHead, DbError> {
        if let Some(head) = self.emails.get(&(org, email)) {
            return Ok(head.clone());
        }
        let sql = "SELECT p.from_domain, e.created_at, p.started_at IS NOT NULL FROM progress p JOIN emails e ON e.org = p.org AND e.number = p.number
                   WHERE p.org = ?1 AND p.number = ?2";
        let head = connection.prepare_cached(sql)?.query_row([org.0, email], |row| {
            Ok(EmailHead { from_domain: row.get::<_, String>(0)?.into(), created_at: row.get(1)?, is_started: row.get(2)? })
        })?;
        bounded(&mut self.emails).insert((org, email), head.clone());
        Ok(head)
    }

    /// Remembers that an email is started, so that no later turn writes it.
    pub fn started(&mut self, org: OrgId, email: i64) {
        if let Some(head) = self.emails.get_mut(&(org, email)) {
            head.is_started = true;
        }
    }
}

impl Memory for Context {
    fn rolled_back(&mut self) {
        self.outgoing.clear();
        self.changes = Changes::default();
        self.sending.forget();
        self.fresh.forget();
        self.sent.forget();
        self.orgs.clear();
        self.names.clear();
        self.texts.clear();
        self.domains.clear();
        self.emails.clear();
    }
}

fn bounded<K, V, S>(map: &mut HashMap<K, V, S>) -> &mut HashMap<K, V, S> {
    if map.len() >= CACHED_MAX {
        map.clear();
    }
    map
}

/// A statement has changed the one row that the writing thread remembers. The job is undone otherwise, and the next one reads the table.
pub fn only(changed: usize, what: &str) -> Result<(), DbError> {
    match changed {
        1 => Ok(()),
        rows => Err(DbError::Damaged(format!("somebody else has written to warmup.db: of {what} {rows} rows were found instead of one"))),
    }
}

/// Reads an address from its two columns.
pub fn address<I: RowIndex>(row: &Row<'_>, key: I, given: I) -> rusqlite::Result<Address> {
    let text: Option<String> = row.get(given)?;
    Ok(Address::stored(match text {
        Some(text) => text,
        None => row.get(key)?,
    }))
}

pub fn state(number: i64) -> Result<State, DbError> {
    State::from_number(number).ok_or_else(|| DbError::Unavailable(format!("warmup.db holds a delivery in state {number}, which is none")))
}

const FAULTS: [Fault; 5] = [Fault::Recipient, Fault::Account, Fault::Domain, Fault::Content, Fault::Network];

pub fn fault_number(fault: Option<Fault>) -> Option<i64> {
    FAULTS.iter().position(|f| Some(*f) == fault).map(|at| at as i64)
}

pub fn said(row: &Row<'_>) -> rusqlite::Result<Said> {
    let (code, enhanced): (Option<u16>, Option<String>) = (row.get("code")?, row.get("enhanced")?);
    let text: Option<String> = row.get("reply")?;
    let fault: Option<i64> = row.get("fault")?;
    Ok(Said {
        reply: code.map(|code| Reply { code, enhanced: enhanced.as_deref().and_then(|e| e.parse().ok()), text: text.unwrap_or_default() }),
        fault: fault.and_then(|at| FAULTS.get(at as usize).copied()),
        detail: row.get("detail")?,
    })
}

/// An organization's number, where it has one.
pub fn find_org(connection: &Connection, name: &OrgName) -> Result<Option<OrgId>, DbError> {
    let found = connection
        .prepare_cached("SELECT id FROM organizations WHERE name = ?1")?
        .query_row([name.as_str()], |row| row.get(0).map(OrgId))
        .optional()?;
    Ok(found)
}

/// Tells whether an email of this number exists.
pub fn email_exists(connection: &Connection, org: OrgId, email: i64) -> Result<bool, DbError> {
    let found = connection
        .prepare_cached("SELECT 1 FROM progress WHERE org = ?1 AND number = ?2")?
        .query_row([org.0, email], |_| Ok(()))
        .optional()?;
    Ok(found.is_some())
}
