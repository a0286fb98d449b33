//! Records as an aligned table, or one field a line where a table is too wide.
//!
//! Widths are those of the first rows; what comes later and is longer moves what is behind it. So a table begins to appear after
//! some rows, and memory is the same for any file.

use std::io::{self, Write};

/// Rows whose widths make the table's.
const ROWS_MEASURED: usize = 200;

/// A table that is being printed.
pub(in crate::cli) struct Table {
    columns: Vec<Column>,
    waiting: Vec<Vec<String>>,
    begun: bool,
    /// Most columns of characters, if it is printed to a terminal.
    width: Option<usize>,
    expanded: Option<bool>,
}

pub(in crate::cli) struct Column {
    pub(in crate::cli) name: String,
    /// Numbers are.
    pub(in crate::cli) right: bool,
    width: usize,
}

impl Column {
    pub(in crate::cli) fn new(name: &str, right: bool) -> Column {
        Column {
            name: name.to_owned(),
            right,
            width: name.chars().count(),
        }
    }
}

impl Table {
    /// `expanded`: one field a line; `None`: where the table is wider than `width`.
    pub(in crate::cli) fn new(
        columns: Vec<Column>,
        width: Option<usize>,
        expanded: Option<bool>,
    ) -> Table {
        Table {
            columns,
            waiting: Vec::new(),
            begun: false,
            width,
            expanded,
        }
    }

    /// A row, with a text for each column.
    pub(in crate::cli) fn row(
        &mut self,
        out: &mut dyn Write,
        cells: Vec<String>,
    ) -> io::Result<()> {
        if self.begun {
            return self.print(out, &cells);
        }
        for (column, cell) in self.columns.iter_mut().zip(&cells) {
            column.width = column.width.max(cell.chars().count());
        }
        self.waiting.push(cells);
        if self.waiting.len() >= ROWS_MEASURED {
            self.begin(out)?;
        }
        Ok(())
    }

    /// Prints what is waiting.
    pub(in crate::cli) fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if !self.begun && !self.waiting.is_empty() {
            self.begin(out)?;
        }
        Ok(())
    }

    fn begin(&mut self, out: &mut dyn Write) -> io::Result<()> {
        self.begun = true;
        let total: usize = self.columns.iter().map(|column| column.width + 2).sum();
        let too_wide = self.width.is_some_and(|width| total > width + 2);
        self.expanded = Some(self.expanded.unwrap_or(too_wide));
        if self.expanded == Some(false) {
            let names: Vec<String> = self.columns.iter().map(|it| it.name.clone()).collect();
            self.print(out, &names)?;
            let rules = self.columns.iter().map(|it| "-".repeat(it.width));
            self.print(out, &rules.collect::<Vec<_>>())?;
        }
        for cells in std::mem::take(&mut self.waiting) {
            self.print(out, &cells)?;
        }
        Ok(())
    }

    fn print(&self, out: &mut dyn Write, cells: &[String]) -> io::Result<()> {
        if self.expanded == Some(true) {
            let width = self.columns.iter().map(|it| it.name.chars().count()).max();
            for (nth, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
                if nth == 0 {
                    writeln!(out, "--- {} {cell}", column.name)?;
                } else {
                    let line =
                        format!("{:width$}  {cell}", column.name, width = width.unwrap_or(0));
                    writeln!(out, "{}", line.trim_end())?;
                }
            }
            return Ok(());
        }
        let mut line = String::new();
        for (column, cell) in self.columns.iter().zip(cells) {
            let padding = " ".repeat(column.width.saturating_sub(cell.chars().count()));
            let (before, behind) = if column.right {
                (padding, String::new())
            } else {
                (String::new(), padding)
            };
            line.push_str(&before);
            line.push_str(cell);
            line.push_str(&behind);
            line.push_str("  ");
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// Text on one line: what isn't printable is shown as Rust writes it.
pub(in crate::cli) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control() || c == '\u{FEFF}';
            escaped
                .then(|| c.escape_default())
                .into_iter()
                .flatten()
                .chain((!escaped).then_some(c))
        })
        .collect()
}

/// How many characters a line of the terminal at standard output has, if it is one.
pub(in crate::cli) fn terminal_width() -> Option<usize> {
    use std::io::IsTerminal as _;
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}
