//! An SQLite database in a directory of its own.
//!
//! What others do there is done by another process: locks of two libraries in one process don't keep each other out.

use crate::contract::{Change, Taken, Target};
use counterfoil_servers::{AsNobody, Session};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What [`SqliteTarget::limit_room`] leaves it.
const ROOM_BYTES: u64 = 1 << 20;

/// A file that may hold a database.
pub(crate) struct SqliteTarget {
    directory: TempDir,
    has_numbered_tables: bool,
    room_bytes: Option<u64>,
    nobody: Option<AsNobody>,
}

impl SqliteTarget {
    pub(crate) fn new() -> Self {
        SqliteTarget {
            directory: tempfile::tempdir().expect("a directory"),
            has_numbered_tables: false,
            room_bytes: None,
            nobody: None,
        }
    }

    /// Whose tables have numbers for names, which the catalogue knows.
    #[cfg(feature = "odbc")]
    pub(crate) fn with_numbered_tables() -> Self {
        let mut target = SqliteTarget::new();
        target.has_numbered_tables = true;
        target
    }

    /// The table of rows of a file whose table or view has this name, quoted.
    fn table(&self, name: &str) -> String {
        if !self.has_numbered_tables {
            return crate::sql::quoted(name);
        }
        let number = self.sql(&format!(
            "SELECT rows_table FROM counterfoil_files WHERE table_name = '{name}'"
        ));
        format!("counterfoil_rows_{}", number.trim())
    }

    /// The database.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("mirror.db")
    }

    /// How large sinks may make it.
    pub(crate) fn room_bytes(&self) -> Option<u64> {
        self.room_bytes
    }

    /// Makes it empty.
    pub(crate) fn fresh(&mut self) {
        self.directory = tempfile::tempdir().expect("a directory");
    }

    /// Runs SQL in it.
    pub(crate) fn sql(&self, text: &str) -> String {
        let mut session = Session::start(self.client()).expect("a session");
        session.run(text).expect(text)
    }

    fn client(&self) -> Command {
        let mut command = Command::new("sqlite3");
        command.arg("-batch").arg("-bail").arg(self.path());
        command
    }

    /// Why what takes a server can't apply to a file; in the words of a harness's `cannot`.
    pub(crate) fn cannot(case: &str) -> Option<&'static str> {
        match case {
            "survives_a_killed_server" | "survives_an_orderly_shutdown" => Some(
                "there is no server: what is killed is the process that applies (sqlite::tests::a_writer_is_killed)",
            ),
            "survives_a_cut_before_the_commit"
            | "finds_out_about_a_cut_after_the_commit"
            | "repeats_an_amendment_that_was_cut" => {
                Some("there is no connection that could be cut")
            }
            "survives_a_deadlock" => Some("one lock for all of the database makes no deadlock"),
            "goes_on_when_a_lock_is_free" => {
                Some("from outside it can't be seen whether somebody waits for the lock")
            }
            "names_a_column_of_another_type" => Some("its columns take values of every type"),
            _ => None,
        }
    }

    fn set_mode(&self, directory: u32, files: u32) {
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its permissions");
        };
        // Before it is closed, and after it is opened.
        mode(self.directory.path(), 0o755);
        for entry in fs::read_dir(self.directory.path()).expect("listing") {
            mode(&entry.expect("listing").path(), files);
        }
        mode(self.directory.path(), directory);
    }
}

impl Drop for SqliteTarget {
    fn drop(&mut self) {
        // It is removed with the rights that it was made with.
        self.nobody = None;
    }
}

impl Target for SqliteTarget {
    fn take(&mut self, _table: &str) -> Box<dyn Taken> {
        let mut other = Session::start(self.client()).expect("a session");
        other.run("BEGIN IMMEDIATE").expect("the lock");
        Box::new(SqliteTaken { _other: other })
    }

    fn limit_room(&mut self) -> &'static str {
        self.room_bytes = Some(ROOM_BYTES);
        "full"
    }

    fn make_room(&mut self) {
        self.room_bytes = None;
    }

    fn revoke(&mut self, _table: &str) -> Vec<String> {
        self.set_mode(0o555, 0o444);
        self.nobody = Some(AsNobody::begin());
        vec![self.path().display().to_string(), "write".to_owned()]
    }

    fn grant(&mut self, _table: &str) {
        self.nobody = None;
        self.set_mode(0o755, 0o644);
    }

    fn change(&mut self, table: &str, change: Change) {
        // A view of it would be in the way; without it nothing else is different.
        if self.has_numbered_tables {
            self.sql(&format!("DROP VIEW {}", crate::sql::quoted(table)));
        }
        let what = match change {
            Change::DropColumn => "DROP COLUMN rest",
            Change::RenameColumn => "RENAME COLUMN data TO daten",
            Change::ChangeType => panic!("it has no types to speak of"),
            Change::MoveTable => "RENAME TO elsewhere",
        };
        self.sql(&format!("ALTER TABLE {} {what}", self.table(table)));
    }

    fn change_back(&mut self, table: &str, change: Change) {
        let table = self.table(table);
        self.sql(&match change {
            Change::DropColumn => format!("ALTER TABLE {table} ADD COLUMN rest BLOB"),
            Change::RenameColumn => format!("ALTER TABLE {table} RENAME COLUMN daten TO data"),
            Change::ChangeType => panic!("it has no types to speak of"),
            Change::MoveTable => format!("ALTER TABLE elsewhere RENAME TO {table}"),
        });
    }
}

struct SqliteTaken {
    /// Has the lock until it is over.
    _other: Session,
}

impl Taken for SqliteTaken {
    fn is_waited_for(&mut self) -> bool {
        false
    }

    fn take_more(&mut self, _table: &str) {}
}
