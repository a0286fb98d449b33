//! What the sink would do to the structure of an empty database, as statements for somebody else to run.

use super::PostgresConfig;
use super::evolution::plan_of;
use super::schema::{self, NAME_BYTES_MAX, create_view};
use super::table::Table;
use crate::naming::{numbered_within, wanted_name};
use crate::sql::quoted;
use crate::{FileDescription, SinkError};
use std::collections::HashSet;

/// The statements with which an empty database becomes what the sink needs for these files: Counterfoil's own tables, then
/// one for each file in order, or for each tree at its first file. Without a schema in the configuration, names stand by
/// themselves. No server is asked.
///
/// # Errors
/// [`SinkError::Permanent`]: a name that can't be a table's.
pub fn schema_sql(
    config: &PostgresConfig,
    files: &[FileDescription],
) -> Result<Vec<String>, SinkError> {
    let schema = config.schema.as_deref().map(quoted);
    let prefix = schema
        .as_ref()
        .map_or(String::new(), |schema| format!("{schema}."));
    let mut statements: Vec<String> = schema
        .iter()
        .map(|schema| format!("CREATE SCHEMA IF NOT EXISTS {schema}"))
        .collect();
    statements.extend(schema::creation(&prefix));
    let mut used = HashSet::new();
    let mut choose = |wanted: &str| {
        let names = (1..).map(|number| numbered_within(wanted, number, NAME_BYTES_MAX));
        let free = names
            .into_iter()
            .find(|name| used.insert(name.to_lowercase()));
        free.unwrap_or_default()
    };
    let mut trees = HashSet::new();
    for file in files {
        if let Some(root) = &file.tree
            && !trees.insert(root)
        {
            continue;
        }
        let name = choose(&wanted_name(file)?);
        let place = format!("{prefix}{}", quoted(&name));
        if file.tree.is_some() {
            let table = Table::shared(place, &name, true);
            statements.push(table.create(None));
            let view = choose(&format!("{name}_files"));
            statements.push(create_view(&prefix, &view, &table));
        } else {
            let identity = file.format.identity_name();
            let table = Table::own(place, &name, identity, plan_of(file).shape().clone(), true);
            statements.push(table.create(None));
            statements.extend(table.create_index(None));
        }
    }
    Ok(statements)
}
