//! What the other files share: cached numbers of names, and a delivery as a row.

use crate::bus::Record;
use crate::db::DbError;
use crate::db::writer::Memory;
use crate::model::address::Address;
use crate::model::delivery::{Said, State};
use crate::model::message_id::Tokens;
use crate::model::name::{EmailNumber, OTHER, OrgId, OrgName, UserNumber};
use crate::warmup::metrics::Changes;
use crate::warmup::sqlite::claims::Claims;
use crate::warmup::store::{Deliveries, DeliveryPage, DeliveryRow};
use postwarm_plugin_api::{Fault, Reply};
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
    pub claims: Claims,
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
            claims: Claims::default(),
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
        self.claims.clear();
        self.orgs.clear();
        self.names.clear();
        self.texts.clear();
        self.domains.clear();
        self.from_domains.clear();
    }
}

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
        reply: code.map(|code| Reply { code, enhanced: enhanced.as_deref().and_then(|e| e.parse().ok()), text: text.unwrap_or_default() }),
        fault: fault.and_then(|at| FAULTS.get(at as usize).copied()),
        detail: row.get("detail")?,
    })
}

/// The most recipients that one page looks at; where few of many are in the wanted state, a page ends early.
pub const LOOKED_AT_MAX: usize = 20_000;

/// An email's recipients in the order of their numbers with the state that is shown: first those with a row, live ones up
/// to `fanned_out` and back-fill behind the audience, merged with those that are not fanned out yet.
const WALK: &str = "
    SELECT d.user AS user, iif(s.user IS NULL, d.state, 2) AS state
    FROM deliveries d LEFT JOIN sending s ON s.org = d.org AND s.email = d.email AND s.user = d.user
    WHERE d.org = ?1 AND d.email = ?2 AND d.user > ?3
    UNION ALL
    SELECT u.number, 0 FROM progress p CROSS JOIN users u ON u.org = p.org AND u.number > p.fanned_out AND u.number <= p.audience
    WHERE p.org = ?1 AND p.number = ?2 AND u.number > ?3
    ORDER BY 1";

const IN_HAND: &str = "SELECT user, 2 FROM sending WHERE org = ?1 AND email = ?2 AND user > ?3 ORDER BY user";

/// The list repeats the condition of the index, without which SQLite does not take it.
const IN_STATE: &str = "
    SELECT d.user, d.state FROM deliveries d INDEXED BY deliveries_state
    WHERE d.org = ?1 AND d.email = ?2 AND d.user > ?3 AND d.state = ?4 AND (d.state = 1 OR d.state > 3)
      AND NOT EXISTS (SELECT 1 FROM sending s WHERE s.org = d.org AND s.email = d.email AND s.user = d.user)
    ORDER BY d.user";

const RECIPIENT: &str = "
    SELECT u.number, u.address_key, u.address, d.attempts, d.queued_at, d.next_at, d.finished_at, d.code, d.enhanced, d.reply, d.fault,
           d.detail, coalesce(sc.name, c.name) AS client, e.created_at AS accepted_at
    FROM users u JOIN emails e ON e.org = u.org AND e.number = ?2
    LEFT JOIN deliveries d ON d.org = u.org AND d.email = ?2 AND d.user = u.number
    LEFT JOIN sending s ON s.org = u.org AND s.email = ?2 AND s.user = u.number
    LEFT JOIN names c ON c.id = d.client
    LEFT JOIN names sc ON sc.id = s.client
    WHERE u.org = ?1 AND u.number = ?3";

/// A page of an email's recipients.
pub fn deliveries(connection: &Connection, org: OrgId, email: EmailNumber, page: &DeliveryPage) -> Result<Deliveries, DbError> {
    let mut statement = connection.prepare_cached(match page.state {
        None | Some(State::Queued | State::Sent) => WALK,
        Some(State::Sending) => IN_HAND,
        Some(State::Deferred | State::Failed | State::Suppressed | State::Unknown) => IN_STATE,
    })?;
    let (key, wanted) = ([org.0, email.0, page.after.0], page.state.map(|s| s as i64));
    let mut walk = match statement.parameter_count() {
        3 => statement.query(key)?,
        _ => statement.query(params![key[0], key[1], key[2], wanted])?,
    };
    let mut found = Deliveries::default();
    let mut looked_at = 0;
    while found.rows.len() < page.limit
        && let Some(row) = walk.next()?
    {
        let (user, stands): (i64, i64) = (row.get(0)?, row.get(1)?);
        looked_at += 1;
        if wanted.is_none_or(|w| w == stands) {
            found.rows.push(recipient(connection, org, email, user, state(stands)?)?);
        } else if looked_at >= LOOKED_AT_MAX {
            found.searched_to = Some(UserNumber(user));
            break;
        }
    }
    Ok(found)
}

fn recipient(connection: &Connection, org: OrgId, email: EmailNumber, user: i64, state: State) -> Result<DeliveryRow, DbError> {
    let waits = matches!(state, State::Deferred | State::Queued);
    let found = connection.prepare_cached(RECIPIENT)?.query_row([org.0, email.0, user], |row| {
        Ok(DeliveryRow {
            user: UserNumber(row.get("number")?),
            recipient: address(row, "address_key", "address")?,
            state,
            attempts: row.get::<_, Option<i64>>("attempts")?.unwrap_or(0),
            client: row.get("client")?,
            said: said(row)?,
            queued_at: row.get::<_, Option<i64>>("queued_at")?.unwrap_or(row.get("accepted_at")?),
            next_at: row.get::<_, Option<i64>>("next_at")?.filter(|at| waits && *at > 0),
            finished_at: row.get("finished_at")?,
        })
    })?;
    Ok(found)
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

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
