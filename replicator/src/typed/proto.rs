//! The text of a file's own schema.

use super::TypedSchema;
use counterfoil_proto::EVENT_SCHEMA;
use counterfoil_records::schema::Column;
use std::fmt::Write as _;

/// What the generic schema says in these places.
const PACKAGE: &str = "package counterfoil.v1;";
const TYPED: &str = "bytes typed = 3;";

impl TypedSchema {
    /// The file's own schema: the envelope, with the record's columns in its images. It takes no other file.
    pub fn proto(&self) -> String {
        let envelope = EVENT_SCHEMA
            .find("syntax = ")
            .map_or(EVENT_SCHEMA, |from| &EVENT_SCHEMA[from..]);
        let envelope = envelope
            .replacen(PACKAGE, &format!("package {};", self.package()), 1)
            .replacen(TYPED, &format!("{} typed = 3;", self.messages[0].name), 1);
        let mut text = format!(
            "// The change events of files whose records are `{}`, made by `counterfoil schema proto`.\n//\n\
             // They are the same bytes as those of counterfoil/v1/event.proto, but for one difference in what is read:\n\
             // `Image.typed` is the record's columns. Numbers of columns come of their names and types, so what is made\n\
             // of a later copybook reads what an earlier one wrote, and the other way round; don't number them anew.\n\
             // schema_id: {}\n",
            self.schema.name(),
            self.schema_id()
        );
        text.push_str(&envelope);
        self.message(0, 0, &mut text);
        text
    }

    fn message(&self, at: usize, indent: usize, text: &mut String) {
        let tables = self.schema.tables();
        let (table, message) = (&tables[at], &self.messages[at]);
        let inner: Vec<usize> = (0..tables.len())
            .filter(|&inner| self.messages[inner].parent == Some(at))
            .collect();
        let pad = " ".repeat(indent);
        let what = if at == 0 {
            format!("The columns of a record `{}`.", self.schema.name())
        } else {
            "One occurrence.".to_owned()
        };
        // Writing to a `String` can't fail.
        let _ = writeln!(text, "\n{pad}// {what}\n{pad}message {} {{", message.name);
        for (column, field) in table.columns.iter().zip(&message.fields) {
            let _ = writeln!(
                text,
                "{pad}  // {}\n{pad}  optional {} {} = {};",
                describe(column),
                field.kind.name(),
                field.name,
                field.number
            );
        }
        for &inner in &inner {
            self.message(inner, indent + 2, text);
            let message = &self.messages[inner];
            let _ = writeln!(
                text,
                "{pad}  repeated {} {} = {};",
                message.name, message.field, message.number
            );
        }
        let _ = writeln!(text, "{pad}}}");
    }
}

/// What a column is, for people.
fn describe(column: &Column) -> String {
    let mut text = column.cobol_name.clone();
    if !column.occurrences.is_empty() {
        let occurrences: Vec<String> = column.occurrences.iter().map(u32::to_string).collect();
        let _ = write!(text, "({})", occurrences.join(", "));
    }
    for group in column.groups.iter().rev() {
        let _ = write!(text, " OF {group}");
    }
    let _ = write!(text, ": {}", column.field);
    // A comment is one line, whatever a name has in it.
    text.replace(|letter: char| letter.is_control(), " ")
}
