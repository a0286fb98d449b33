//! What is in a file's records: its copybook or its field list, read and checked when the configuration is.

use super::file::{FileTable, SchemaKeys};
use super::resolve::Resolver;
use crate::copybooks::{self, Directories};
use counterfoil_records::copybook::{Options, SourceFormat};
use counterfoil_records::schema::{Dialect, FieldSpec, RecordSchema};
use counterfoil_records::{Layout, Organization};
use std::path::PathBuf;
use std::sync::Arc;
use toml::Spanned;

/// Something is wrong with it, and that was said.
#[derive(Debug)]
pub(super) struct Refused;

impl Resolver<'_> {
    /// The schema that a rule's copybook or fields describe, if it has either.
    pub(super) fn schema(
        &mut self,
        keys: &SchemaKeys<'_>,
    ) -> Result<Option<Arc<RecordSchema>>, Refused> {
        let dialect = self.dialect(keys)?;
        let schema = match (keys.copybook, keys.field.first()) {
            (Some(copybook), None) => self.of_copybook(keys, copybook, dialect)?,
            (None, Some(_)) => self.of_fields(keys, &dialect)?,
            (None, None) => {
                self.needs_schema(keys);
                return Ok(None);
            }
            (Some(_), Some(field)) => {
                self.problem(
                    field.span(),
                    "the file has a copybook and a field list",
                    "leave one of them out: both say what is in a record",
                );
                return Err(Refused);
            }
        };
        let mut schema = schema;
        for item in keys.item {
            match schema.with_item(item.get_ref()) {
                Ok(changed) => schema = changed,
                Err(message) => {
                    self.problem(item.span(), message, "see docs/copybooks.md");
                    return Err(Refused);
                }
            }
        }
        if let Some(blank) = keys.blank {
            match schema.with_blank((*blank.get_ref()).into()) {
                Ok(changed) => schema = changed,
                Err(message) => {
                    self.problem(blank.span(), message, "see docs/copybooks.md");
                    return Err(Refused);
                }
            }
        }
        schema.root().visit(&mut |item| {
            let file = PathBuf::from(&*item.place.file);
            if file.is_absolute() {
                self.read.add(file);
            }
        });
        Ok(Some(Arc::new(schema)))
    }

    fn dialect(&mut self, keys: &SchemaKeys<'_>) -> Result<Dialect, Refused> {
        let Some(written) = keys.dialect else {
            return Ok(Dialect::default());
        };
        written.get_ref().parse().map_err(|error| {
            self.problem(
                written.span(),
                format!("{error}"),
                "a dialect is a compiler (gnucobol, ibm or mf), and what differs from its defaults, as in \
                 \"ibm,code-page=cp273\"",
            );
            Refused
        })
    }

    /// Keys that say something of a schema, without one.
    fn needs_schema(&mut self, keys: &SchemaKeys<'_>) {
        let spans = [keys.copybook_format, keys.dialect, keys.record]
            .into_iter()
            .flatten()
            .map(Spanned::span)
            .chain(keys.copy_path.first().map(Spanned::span))
            .chain(keys.blank.map(Spanned::span))
            .chain(keys.item.first().map(Spanned::span));
        for span in spans {
            self.problem(
                span,
                "this says how to read a copybook, and there is none",
                "add `copybook = \"FILE\"`, or leave it out",
            );
        }
    }

    fn of_copybook(
        &mut self,
        keys: &SchemaKeys<'_>,
        written: &Spanned<String>,
        dialect: Dialect,
    ) -> Result<RecordSchema, Refused> {
        let mut format = None;
        if let Some(name) = keys.copybook_format {
            format = Some(name.get_ref().parse::<SourceFormat>().map_err(|message| {
                self.problem(
                    name.span(),
                    message,
                    "leave it out, and the copybook tells by itself",
                );
                Refused
            })?);
        }
        let path = self.path(written).ok_or(Refused)?;
        let directories: Option<Vec<PathBuf>> =
            keys.copy_path.iter().map(|path| self.path(path)).collect();
        let options = Options { dialect, format };
        let directories = Directories(directories.ok_or(Refused)?);
        let copybook = copybooks::load(&path, &options, &directories).map_err(|error| {
            self.problem(
                written.span(),
                format!("the copybook can't be used:\n{error:#}"),
                "`counterfoil schema show --copybook FILE` reads it by itself",
            );
            Refused
        })?;
        let name = keys.record;
        match copybook.records_named(name.map(|name| name.get_ref().as_str())) {
            Ok(record) => Ok(record),
            Err(message) => {
                self.problem(
                    name.unwrap_or(written).span(),
                    format!("in {}, {message}", path.display()),
                    "say which with `record = \"NAME\"`, or `record = \"*\"` if the file has all of them",
                );
                Err(Refused)
            }
        }
    }

    fn of_fields(
        &mut self,
        keys: &SchemaKeys<'_>,
        dialect: &Dialect,
    ) -> Result<RecordSchema, Refused> {
        for span in [keys.copybook_format, keys.record]
            .into_iter()
            .flatten()
            .map(Spanned::span)
            .chain(keys.copy_path.first().map(Spanned::span))
        {
            self.problem(
                span,
                "this says how to read a copybook, and the file has a field list",
                "leave it out",
            );
        }
        // Each by itself first, to point at the one that is wrong.
        let mut refused = false;
        for field in keys.field {
            if let Err(message) = field.get_ref().item(2, dialect) {
                self.problem(field.span(), message, "docs/copybooks.md lists the types");
                refused = true;
            }
        }
        if refused {
            return Err(Refused);
        }
        let fields: Vec<FieldSpec> = keys
            .field
            .iter()
            .map(|field| field.get_ref().clone())
            .collect();
        let name = keys.name.unwrap_or("record");
        RecordSchema::of_fields(name, &fields, dialect).map_err(|message| {
            let span = keys.field.first().map_or(0..0, Spanned::span);
            self.problem(span, message, "see docs/copybooks.md");
            Refused
        })
    }

    /// The `record_size` that follows from a schema, where the layout has one; says so if another one is written.
    pub(super) fn size_of_schema(
        &mut self,
        table: &FileTable,
        record_size: Option<u64>,
        schema: Option<&RecordSchema>,
    ) -> Option<u64> {
        let schema = schema?;
        let size = u64::from(schema.len_max());
        let (organization, layout) = (*table.organization.get_ref(), table.layout.get_ref().layout);
        let decides = matches!(organization, Organization::Fixed | Organization::Relative)
            || (organization, layout) == (Organization::Sequential, Layout::Plain);
        if !decides {
            return None;
        }
        if let (Some(written), Some(given)) = (&table.record_size, record_size)
            && given != 0
            && given != size
        {
            self.problem(
                written.span(),
                format!(
                    "record_size is {given}, but {} takes {size} bytes by its {}",
                    schema.name(),
                    if table.copybook.is_some() { "copybook" } else { "fields" }
                ),
                format!(
                    "leave record_size out to have {size}; if the file is right, the copybook or the dialect isn't \
                     (`counterfoil schema show` says where each field lies)"
                ),
            );
        }
        Some(size)
    }
}
