//! Tables that somebody else made: whether a file's records can go there.

use super::error::Doing;
use super::schema::Table;
use super::session::Session;
use crate::SinkError;

/// Why a table can't be used, line by line; empty when it can.
pub(super) async fn differences(
    session: &mut Session,
    table: &Table,
) -> Result<Vec<String>, SinkError> {
    let looking = || format!("looking at the table {}", table.place);
    let kind = session
        .query(
            "SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)",
            &[&table.place],
        )
        .await
        .doing(looking)?;
    let kind: Option<String> = kind.first().map(|row| row.get(0));
    if !matches!(kind.as_deref(), Some("r" | "p")) {
        return Ok(vec!["it is not a table".into()]);
    }
    let columns = session
        .query(
            "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull,
                 atthasdef OR attidentity <> '' OR attgenerated <> ''
             FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            &[&table.place],
        )
        .await
        .doing(looking)?;
    let mut differences = Vec::new();
    for (name, wanted, may_be_null) in table.columns() {
        let Some(row) = columns.iter().find(|row| row.get::<_, &str>(0) == name) else {
            differences.push(format!("column {name} is missing (it has to be {wanted})"));
            continue;
        };
        let found: &str = row.get(1);
        if found != wanted {
            differences.push(format!("column {name} is {found}, not {wanted}"));
        } else if may_be_null && row.get(2) {
            differences.push(format!(
                "column {name} is NOT NULL, but may have nothing in it"
            ));
        }
    }
    for row in &columns {
        let name: &str = row.get(0);
        let (is_not_null, has_default): (bool, bool) = (row.get(2), row.get(3));
        let is_known = table.columns().iter().any(|column| column.0 == name);
        if !is_known && is_not_null && !has_default {
            differences.push(format!(
                "column {name} is NOT NULL without a default, and nothing would fill it"
            ));
        }
    }
    let key = table.key();
    let has_key = session
        .query(
            "SELECT EXISTS (SELECT 1 FROM pg_index AS i
                 WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND
                     i.indexprs IS NULL AND $2::text[] = (SELECT array_agg(a.attname::text ORDER BY a.attname)
                         FROM pg_attribute AS a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)))",
            &[&table.place, &key],
        )
        .await
        .doing(looking)?;
    if differences.is_empty() && !has_key.first().is_some_and(|row| row.get(0)) {
        differences.push(format!("there is no primary key on ({})", key.join(", ")));
    }
    if differences.is_empty() {
        let rows = session
            .query(
                &format!("SELECT EXISTS (SELECT 1 FROM {})", table.place),
                &[],
            )
            .await
            .doing(looking)?;
        if rows.first().is_some_and(|row| row.get(0)) {
            differences.push("there are rows in it that Counterfoil didn't put there".into());
        }
    }
    Ok(differences)
}
