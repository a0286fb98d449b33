//! Counterfoil's own tables: made where there are none, and looked at.

use super::check::check_own;
use super::dialect::{Sql, Types};
use super::error::{Doing, Fault};
use super::session::{Kind, Session, Value};
use crate::SinkError;
use crate::sql::permanent;

/// Version of Counterfoil's own tables; grows when they change.
pub const SCHEMA_VERSION: u32 = 2;

/// Makes the tables where there are none. Whoever is faster makes them: each step can be done twice.
pub(super) fn prepare(session: &mut Session) -> Result<(), SinkError> {
    let version = check(session)?.ok();
    if version == Some(i64::from(SCHEMA_VERSION)) {
        return Ok(());
    }
    let creating = || "creating Counterfoil's tables".to_owned();
    let types = types(session)?;
    for statement in session.sql.dialect.before_tables() {
        // Some of it can't be done while somebody is in a transaction, and all of it is only for speed.
        if let Err(fault) = session.define(statement) {
            tracing::debug!(?fault, statement, "left as it is");
        }
    }
    for (table, statements) in session.sql.create_own(types) {
        for (n, statement) in statements.iter().enumerate() {
            if n == 0 && is_there(session, &table)? {
                break;
            }
            if let Err(fault) = session.define(statement)
                && (n > 0 || !is_there(session, &table)?)
            {
                return Err(fault.at(creating()));
            }
        }
    }
    // What is new in a version is tables, so far.
    let insert = session.sql.own(match version {
        None => "INSERT INTO {state} (only_row, version, next_number) VALUES (1, ?, 1)",
        Some(_) => "UPDATE {state} SET version = ?",
    });
    let version = Value::Number(Some(i64::from(SCHEMA_VERSION)));
    let inserted = session
        .change(&insert, &[version])
        .and_then(|_| session.commit());
    if let Err(fault) = inserted {
        session.rollback();
        if check(session)?.is_err() {
            return Err(fault.at(creating()));
        }
    }
    Ok(())
}

/// What makes Counterfoil's own tables in an empty database.
pub(super) fn statements(sql: &Sql) -> Vec<String> {
    let mut statements: Vec<String> = Vec::new();
    for (_, makes) in sql.create_own(sql.dialect.usual_types()) {
        statements.extend(makes);
    }
    statements.push(sql.own(&format!(
        "INSERT INTO {{state}} (only_row, version, next_number) VALUES (1, {SCHEMA_VERSION}, 1)"
    )));
    statements
}

/// Refuses to go on where there are none, or other ones, and says how to make or mend them.
pub(super) fn require(session: &mut Session) -> Result<(), SinkError> {
    if let Ok(version) = check(session)? {
        if version < i64::from(SCHEMA_VERSION) {
            let created = session.sql.create_own(session.sql.dialect.usual_types());
            let mut mends = Vec::new();
            for (table, makes) in created {
                if !is_there(session, &table)? {
                    mends.extend(makes);
                }
            }
            mends.push(
                session
                    .sql
                    .own(&format!("UPDATE {{state}} SET version = {SCHEMA_VERSION}")),
            );
            return Err(permanent(
                "looking for Counterfoil's tables",
                format!(
                    "they are of version {version}, this Counterfoil needs {SCHEMA_VERSION}, and `ddl` says that nothing is to be made"
                ),
                format!("have them made: {}", mends.join("; ")),
            ));
        }
        return check_own(session);
    }
    let statements = statements(&session.sql);
    Err(permanent(
        "looking for Counterfoil's tables",
        "there are none, and `ddl` says that they aren't to be made",
        format!("have them made: {}", statements.join("; ")),
    ))
}

/// Refuses tables of a newer version. Within: why there are none.
pub(super) fn check(session: &mut Session) -> Result<Result<i64, Option<Fault>>, SinkError> {
    let looking = || "looking for Counterfoil's tables".to_owned();
    let select = session.sql.own("SELECT version FROM {state}");
    let row = session.first(&select, &[], &[Kind::Number]);
    session.rollback();
    let mut row = match row {
        Ok(Some(row)) => row,
        Ok(None) => return Ok(Err(None)),
        Err(fault) if session.is_broken() => return Err(fault.at(looking())),
        Err(fault) => return Ok(Err(Some(fault))),
    };
    let version = row.known_number(0).doing(looking)?;
    if version > i64::from(SCHEMA_VERSION) {
        return Err(permanent(
            looking(),
            format!(
                "a newer Counterfoil made them (schema version {version}; this one knows {SCHEMA_VERSION})"
            ),
            "use that version of Counterfoil, or give the sink another schema",
        ));
    }
    Ok(Ok(version))
}

pub(super) fn is_there(session: &mut Session, table: &str) -> Result<bool, SinkError> {
    let found = session.first(
        &format!("SELECT 1 FROM {table} WHERE 1 = 0"),
        &[],
        &[Kind::Number],
    );
    session.rollback();
    match found {
        Ok(_) => Ok(true),
        Err(fault) if session.is_broken() => Err(fault.at(format!("looking for {table}"))),
        Err(_) => Ok(false),
    }
}

/// The names of types that this database takes. Only a database that isn't known is asked.
pub(super) fn types(session: &mut Session) -> Result<Types, SinkError> {
    let dialect = session.sql.dialect;
    Ok(Types {
        bytes: taken(session, dialect.bytes_types(), "bytes")?,
        text: taken(session, dialect.text_types(), "text")?,
    })
}

fn taken(
    session: &mut Session,
    names: &[&'static str],
    what: &str,
) -> Result<&'static str, SinkError> {
    let trying = || format!("looking for a column type for {what}");
    let mut last = None;
    for name in names {
        if names.len() == 1 {
            return Ok(name);
        }
        // One of another's, or of a start that was interrupted.
        let drop = session.sql.drop_probe();
        let _ = session.define(&drop);
        match session.define(&session.sql.create_probe(name)) {
            Ok(()) => {
                session.define(&drop).doing(trying)?;
                return Ok(name);
            }
            Err(fault) if session.is_broken() => return Err(fault.at(trying())),
            Err(fault) => last = Some(fault),
        }
    }
    Err(match last {
        Some(fault) => fault.at(format!("{} (tried {})", trying(), names.join(", "))),
        None => permanent(
            trying(),
            "there is none",
            "report this: it is a fault of Counterfoil",
        ),
    })
}
