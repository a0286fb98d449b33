//! How a table that is there comes to be what a plan wants, in the batch's transaction.

use super::columns::{Filler, sql_type};
use super::error::Doing;
use super::file::Table;
use super::structure;
use crate::SinkError;
use crate::plan::{Evolution, Plan, Shape, UNDECODED};
use crate::sql::quoted;
use rusqlite::{Connection, params_from_iter};

/// Rows that are filled anew in one go, and the bytes of records after which no more are taken.
const ROWS: i64 = 1000;
const BYTES: usize = 4 << 20;

/// Does to a table what `evolution` says.
pub(super) fn evolve(
    connection: &Connection,
    table: &Table,
    file_id: i64,
    plan: &Plan,
    evolution: &Evolution,
) -> Result<(), SinkError> {
    let changing = || format!("changing the columns of table {}", table.name);
    let run = |sql: String| connection.execute_batch(&sql).doing(changing);
    let name = quoted(&table.name);
    if evolution.drop_index {
        for index in structure::own_indexes(connection, &table.name)? {
            run(format!("DROP INDEX {}", quoted(&index)))?;
        }
    }
    for column in &evolution.drop {
        run(format!(
            "ALTER TABLE {name} DROP COLUMN {}",
            quoted(&column.name)
        ))?;
    }
    for column in &evolution.add {
        run(format!(
            "ALTER TABLE {name} ADD COLUMN {} {}",
            quoted(&column.name),
            sql_type(column.kind)
        ))?;
    }
    for column in &evolution.widen {
        let so_far = table.shape.columns.iter().chain(&table.shape.left);
        let so_far = so_far
            .filter(|there| there.name.eq_ignore_ascii_case(&column.name))
            .map(|there| sql_type(there.kind))
            .next();
        // Types of text have no length here. But a whole number that becomes a decimal is text from now on.
        if so_far != Some(sql_type(column.kind)) {
            let (old, new) = (quoted(&column.name), quoted(&format!("{} ", column.name)));
            let sql_type = sql_type(column.kind);
            run(format!(
                "ALTER TABLE {name} ADD COLUMN {new} {sql_type};
                 UPDATE {name} SET {new} = {old};
                 ALTER TABLE {name} DROP COLUMN {old};
                 ALTER TABLE {name} RENAME COLUMN {new} TO {old}"
            ))?;
        }
    }
    if evolution.add_undecoded {
        run(format!("ALTER TABLE {name} ADD COLUMN {UNDECODED} TEXT"))?;
    }
    let mut cleared: Vec<String> = evolution.clear.iter().map(|c| quoted(&c.name)).collect();
    if evolution.shape.decoded && evolution.shape.columns.is_empty() && !cleared.is_empty() {
        cleared.push(UNDECODED.to_owned());
    }
    if !cleared.is_empty() {
        run(format!(
            "UPDATE {name} SET {} = NULL",
            cleared.join(" = NULL, ")
        ))?;
    }
    if evolution.refill && table.shape.raw {
        let shape = Shape {
            raw: true,
            ..evolution.shape.clone()
        };
        let table = Table::own(table.name.clone(), &table.identity, shape);
        refill(connection, &table, plan, None)?;
    }
    if evolution.drop_raw {
        run(format!(
            "ALTER TABLE {name} DROP COLUMN data; ALTER TABLE {name} DROP COLUMN rest;
             DELETE FROM counterfoil_residue WHERE file_id = {file_id}"
        ))?;
    }
    if evolution.make_index {
        structure::make_index(connection, &table.name, &evolution.shape)?;
    }
    Ok(())
}

/// Fills the columns of a table's rows anew from their bytes: of all rows, or of those of this position in a history.
pub(super) fn refill(
    connection: &Connection,
    table: &Table,
    plan: &Plan,
    position: Option<[i64; 3]>,
) -> Result<(), SinkError> {
    let filling = || format!("filling the columns of table {} anew", table.name);
    let mut key = vec![quoted(&table.identity)];
    if table.is_history() {
        key.extend(["epoch", "lsn", "idx"].map(String::from));
    }
    let columns = table.shape.columns.iter().map(|c| quoted(&c.name));
    let mut columns: Vec<String> = columns.collect();
    if table.shape.decoded {
        columns.push(UNDECODED.to_owned());
    }
    let numbered = |names: &[String], first: usize, between: &str| {
        let names = names.iter().zip(first..);
        let pairs: Vec<String> = names.map(|(name, at)| format!("{name} = ?{at}")).collect();
        pairs.join(between)
    };
    let name = quoted(&table.name);
    let places: Vec<String> = (1..=key.len()).map(|at| format!("?{at}")).collect();
    let only = match position {
        Some([epoch, lsn, idx]) => {
            format!("AND epoch = {epoch} AND lsn = {lsn} AND idx = {idx}")
        }
        None => String::new(),
    };
    let mut select = connection
        .prepare(&format!(
            "SELECT {list}, data FROM {name} WHERE ({list}) > ({places}) AND data IS NOT NULL {only}
             ORDER BY {list} LIMIT {ROWS}",
            list = key.join(", "),
            places = places.join(", "),
        ))
        .doing(filling)?;
    let mut update = connection
        .prepare(&format!(
            "UPDATE {name} SET {} WHERE {}",
            numbered(&columns, key.len() + 1, ", "),
            numbered(&key, 1, " AND "),
        ))
        .doing(filling)?;
    let mut filler = Filler::new(Some(plan));
    let mut last = vec![-1_i64; key.len()];
    loop {
        let mut rows: Vec<(Vec<i64>, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        let mut found = select.query(params_from_iter(last.iter())).doing(filling)?;
        while bytes < BYTES
            && let Some(row) = found.next().doing(filling)?
        {
            let key: Result<Vec<i64>, _> = (0..key.len()).map(|at| row.get(at)).collect();
            // Text is taken as bytes, as when pieces are read.
            let data = match row.get_ref(last.len()).doing(filling)? {
                rusqlite::types::ValueRef::Blob(data) | rusqlite::types::ValueRef::Text(data) => {
                    data.to_vec()
                }
                _ => Vec::new(),
            };
            bytes += data.len();
            rows.push((key.doing(filling)?, data));
        }
        drop(found);
        let Some((end, _)) = rows.last() else {
            return Ok(());
        };
        last.clone_from(end);
        for (key, data) in &rows {
            let mut fill = || {
                for (at, part) in key.iter().enumerate() {
                    update.raw_bind_parameter(at + 1, part)?;
                }
                filler.bind(&mut update, key.len() + 1, &table.shape, data)?;
                update.raw_execute()
            };
            fill().doing(|| format!("{}, record {}", filling(), key[0]))?;
        }
    }
}
