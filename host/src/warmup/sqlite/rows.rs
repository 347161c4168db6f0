//! What the other files share: cached numbers of names, and a delivery as a row.

use crate::bus::Record;
use crate::db::DbError;
use crate::db::writer::Memory;
use crate::model::address::Address;
use crate::model::delivery::{Said, State};
use crate::model::message_id::Tokens;
use crate::model::name::{EmailNumber, OrgId, OrgName, UserNumber};
use crate::warmup::metrics::Changes;
use crate::warmup::store::{DeliveryPage, DeliveryRow};
use postwarm_plugin_api::{EnhancedCode, Fault, Reply};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashMap;
use std::sync::Arc;

/// The most names kept in memory; beyond it the cache starts anew.
const CACHED_MAX: usize = 10_000;

/// What the writing thread remembers between jobs.
pub struct Context {
    pub tokens: Arc<Tokens>,
    /// What the running job tells.
    pub outgoing: Vec<Record>,
    /// What the running job changed, for the metrics.
    pub changes: Changes,
    orgs: HashMap<OrgId, OrgName>,
    names: HashMap<String, i64>,
    texts: HashMap<i64, Arc<str>>,
    domains: HashMap<String, i64>,
    from_domains: HashMap<(OrgId, i64), Arc<str>>,
}

impl Context {
    pub fn new(tokens: Arc<Tokens>) -> Context {
        Context {
            tokens,
            outgoing: Vec::new(),
            changes: Changes::default(),
            orgs: HashMap::new(),
            names: HashMap::new(),
            texts: HashMap::new(),
            domains: HashMap::new(),
            from_domains: HashMap::new(),
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

    /// The domain of an email's From address.
    pub fn sender_domain(&mut self, connection: &Connection, org: OrgId, email: i64) -> Result<Arc<str>, DbError> {
        if let Some(domain) = self.from_domains.get(&(org, email)) {
            return Ok(domain.clone());
        }
        let text: String = connection
            .prepare_cached("SELECT from_domain FROM progress WHERE org = ?1 AND number = ?2")?
            .query_row([org.0, email], |row| row.get(0))?;
        let domain: Arc<str> = text.into();
        bounded(&mut self.from_domains).insert((org, email), domain.clone());
        Ok(domain)
    }
}

impl Memory for Context {
    fn rolled_back(&mut self) {
        self.outgoing.clear();
        self.changes = Changes::default();
        self.orgs.clear();
        self.names.clear();
        self.texts.clear();
        self.domains.clear();
        self.from_domains.clear();
    }
}

/// The provider of domains that no provider claims.
pub const OTHER: &str = "other";

fn bounded<K, V>(map: &mut HashMap<K, V>) -> &mut HashMap<K, V> {
    if map.len() >= CACHED_MAX {
        map.clear();
    }
    map
}

/// Reads an address from its two columns.
pub fn address(row: &Row<'_>, key: &str, given: &str) -> rusqlite::Result<Address> {
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

fn said(row: &Row<'_>) -> rusqlite::Result<Said> {
    let (code, enhanced): (Option<u16>, Option<String>) = (row.get("code")?, row.get("enhanced")?);
    let text: Option<String> = row.get("reply")?;
    let fault: Option<i64> = row.get("fault")?;
    Ok(Said {
        reply: code.map(|code| Reply { code, enhanced: enhanced.as_deref().and_then(read_enhanced), text: text.unwrap_or_default() }),
        fault: fault.and_then(|at| FAULTS.get(at as usize).copied()),
        detail: row.get("detail")?,
    })
}

fn read_enhanced(text: &str) -> Option<EnhancedCode> {
    let mut parts = text.split('.');
    let code = EnhancedCode(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(code)
}

const PAGE: &str = "
    SELECT u.number, u.address_key, u.address, u.created_at AS registered_at,
           d.state, d.attempts, d.queued_at, d.next_at, d.finished_at, d.code, d.enhanced, d.reply, d.fault, d.detail,
           s.since, c.name AS client, sc.name AS sending_client, e.created_at AS accepted_at
    FROM users u
    JOIN progress p ON p.org = u.org AND p.number = ?2
    JOIN emails e ON e.org = u.org AND e.number = ?2
    LEFT JOIN deliveries d ON d.org = u.org AND d.email = ?2 AND d.user = u.number
    LEFT JOIN sending s ON s.org = u.org AND s.email = ?2 AND s.user = u.number
    LEFT JOIN names c ON c.id = d.client
    LEFT JOIN names sc ON sc.id = s.client
    WHERE u.org = ?1 AND u.number > ?3 AND (d.user IS NOT NULL OR (u.number <= p.audience AND u.number > p.fanned_out))
      AND (?5 IS NULL OR ?5 = CASE WHEN s.user IS NOT NULL THEN 2 ELSE coalesce(d.state, 0) END)
    ORDER BY u.number LIMIT ?4";

/// A page of an email's recipients.
pub fn deliveries(connection: &Connection, org: OrgId, email: EmailNumber, page: &DeliveryPage) -> Result<Vec<DeliveryRow>, DbError> {
    let mut statement = connection.prepare_cached(PAGE)?;
    let wanted = page.state.map(|s| s as i64);
    let mut rows = statement.query(params![org.0, email.0, page.after.0, page.limit as i64, wanted])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let sending: Option<i64> = row.get("since")?;
        let stored = state(row.get::<_, Option<i64>>("state")?.unwrap_or(State::Queued as i64))?;
        let now = if sending.is_some() { State::Sending } else { stored };
        let waits = matches!(now, State::Deferred | State::Queued);
        found.push(DeliveryRow {
            user: UserNumber(row.get("number")?),
            recipient: address(row, "address_key", "address")?,
            state: now,
            attempts: row.get::<_, Option<i64>>("attempts")?.unwrap_or(0),
            client: row.get::<_, Option<String>>("sending_client")?.or(row.get("client")?),
            said: said(row)?,
            queued_at: row.get::<_, Option<i64>>("queued_at")?.unwrap_or(row.get("accepted_at")?),
            next_at: row.get::<_, Option<i64>>("next_at")?.filter(|_| waits),
            finished_at: row.get("finished_at")?,
        });
    }
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
