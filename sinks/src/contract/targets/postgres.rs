//! A schema of a PostgreSQL server's database.

use super::{Room, Server, next_number};
use crate::contract::{Change, Moment, Stop, Taken, Target};
use counterfoil_servers::{Cut, Postgres, Proxy, Session};
use std::path::Path;
use tempfile::TempDir;

/// The database that it is in.
pub(crate) const DATABASE: &str = "postgres";

/// A schema whose owner is a user of its own, who is no superuser. It is the first in that user's search path.
pub(crate) struct PostgresTarget {
    server: Server<Postgres>,
    schema: String,
    user: String,
    has_numbered_tables: bool,
    /// Gone before the server that it leads to.
    way: Way,
    room: Option<Room>,
}

/// A socket that leads to the server's.
struct Way {
    directory: TempDir,
    proxy: Proxy,
}

impl Way {
    fn to(server: &Postgres) -> Way {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(format!(".s.PGSQL.{}", server.port()));
        let proxy = Proxy::start(&path, &server.socket()).expect("a proxy");
        Way { directory, proxy }
    }
}

impl PostgresTarget {
    pub(crate) fn new() -> Self {
        let server = Server::Shared(Postgres::shared().expect("a PostgreSQL server"));
        let number = next_number();
        PostgresTarget {
            schema: format!("target {number}"),
            user: format!("user{number}"),
            has_numbered_tables: false,
            way: Way::to(&server),
            room: None,
            server,
        }
    }

    /// Whose tables have numbers for names, which the catalogue knows.
    #[cfg(feature = "odbc")]
    pub(crate) fn with_numbered_tables() -> Self {
        let mut target = PostgresTarget::new();
        target.has_numbered_tables = true;
        target
    }

    /// Part of the socket's name.
    #[cfg(feature = "odbc")]
    pub(crate) fn port(&self) -> u16 {
        self.server.port()
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

    /// The socket's directory, which leads to the server by a way that can be cut.
    pub(crate) fn socket_dir(&self) -> &Path {
        self.way.directory.path()
    }

    /// The schema, which is there once the target was emptied.
    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// Its owner, who needs no password.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// Where a sink connects.
    pub(crate) fn url(&self) -> String {
        self.server.url_at(self.socket_dir(), self.user(), DATABASE)
    }

    /// Makes it empty.
    pub(crate) fn fresh(&self) {
        let (user, schema) = (&self.user, crate::sql::quoted(&self.schema));
        let space = match self.room {
            Some(_) => format!(
                "ALTER ROLE {user} SET default_tablespace = small; GRANT CREATE ON TABLESPACE small TO {user}"
            ),
            None => String::new(),
        };
        self.sql(&format!(
            "DROP SCHEMA IF EXISTS {schema} CASCADE; DROP ROLE IF EXISTS {user}; CREATE ROLE {user} LOGIN;
             ALTER ROLE {user} SET search_path = {schema}; CREATE SCHEMA {schema} AUTHORIZATION {user}; {space}"
        ));
    }

    /// Runs SQL in it, as the superuser.
    pub(crate) fn sql(&self, text: &str) -> String {
        let text = format!(
            "SET search_path = {}; SET client_min_messages = warning; {text}",
            crate::sql::quoted(&self.schema)
        );
        self.server.sql(DATABASE, &text).expect(&text)
    }

    /// A session of the superuser's in it, which stays open.
    pub(crate) fn session(&self) -> Session {
        let mut session = self.server.session(DATABASE).expect("a session");
        let begin = format!("SET search_path = {}", crate::sql::quoted(&self.schema));
        session.run(&begin).expect("its schema");
        session
    }
}

impl Drop for PostgresTarget {
    fn drop(&mut self) {
        if !std::thread::panicking()
            && let Server::Shared(_) = self.server
        {
            let (user, schema) = (&self.user, crate::sql::quoted(&self.schema));
            self.sql(&format!(
                "DROP SCHEMA IF EXISTS {schema} CASCADE; DROP ROLE IF EXISTS {user}"
            ));
        }
    }
}

impl Target for PostgresTarget {
    fn use_own_server(&mut self) {
        let server = Postgres::start("").expect("a PostgreSQL server");
        self.way = Way::to(&server);
        self.server = Server::Own(Box::new(server));
    }

    fn stop(&mut self, how: Stop) {
        match how {
            Stop::Kill => self.server.kill(),
            Stop::ShutDown => self.server.shut_down(),
        }
        .expect("stopping the server");
    }

    fn start(&mut self) {
        self.server.raise().expect("starting the server");
    }

    fn cut(&mut self, moment: Moment) {
        let commit = b"COMMIT\0".to_vec();
        self.way.proxy.cut(match moment {
            Moment::BeforeCommit => Cut::Request(commit),
            Moment::AfterCommit => Cut::Answer(commit),
        });
    }

    fn is_cut_to_come(&self) -> bool {
        self.way.proxy.is_armed()
    }

    fn take(&mut self, table: &str) -> Box<dyn Taken> {
        let mut taker = self.session();
        let number = taker.run("SELECT pg_backend_pid()").expect("its number");
        // Who finds out about a deadlock gives way: that mustn't be this one.
        taker
            .run("SET deadlock_timeout = '1h'; BEGIN")
            .expect("a transaction");
        let mut taken = PostgresTaken {
            taker,
            observer: self.session(),
            number: number.trim().to_owned(),
        };
        taken.take_more(table);
        Box::new(taken)
    }

    fn limit_room(&mut self) -> &'static str {
        let server = Postgres::start("").expect("a PostgreSQL server");
        let room = Room::make(server.socket_dir().join("room"), 3);
        server.user().own(room.path()).expect("the server's");
        let path = room.path().display();
        server
            .sql(
                DATABASE,
                &format!("CREATE TABLESPACE small LOCATION '{path}'"),
            )
            .expect("a tablespace");
        self.way = Way::to(&server);
        self.server = Server::Own(Box::new(server));
        self.room = Some(room);
        "53100"
    }

    fn make_room(&mut self) {
        if let Some(room) = &self.room {
            room.resize(128);
        }
    }

    fn revoke(&mut self, table: &str) -> Vec<String> {
        let (name, user) = (self.table(table), &self.user);
        self.sql(&format!(
            "REVOKE INSERT, UPDATE, DELETE ON {name} FROM {user}"
        ));
        ["last", "permission", "42501"].map(str::to_owned).into()
    }

    fn grant(&mut self, table: &str) {
        let (name, user) = (self.table(table), &self.user);
        self.sql(&format!("GRANT ALL ON {name} TO {user}"));
    }

    fn change(&mut self, table: &str, change: Change) {
        // A view of it would be in the way; without it nothing else is different.
        if self.has_numbered_tables {
            self.sql(&format!("DROP VIEW {}", crate::sql::quoted(table)));
        }
        let what = match change {
            Change::DropColumn => "DROP COLUMN rest",
            Change::RenameColumn => "RENAME COLUMN data TO daten",
            Change::ChangeType => "ALTER COLUMN rest TYPE integer USING 0",
            Change::MoveTable => "RENAME TO elsewhere",
        };
        self.sql(&format!("ALTER TABLE {} {what}", self.table(table)));
    }

    fn change_back(&mut self, table: &str, change: Change) {
        let table = self.table(table);
        self.sql(&match change {
            Change::DropColumn => format!("ALTER TABLE {table} ADD COLUMN rest bytea"),
            Change::RenameColumn => format!("ALTER TABLE {table} RENAME COLUMN daten TO data"),
            Change::ChangeType => {
                format!("ALTER TABLE {table} ALTER COLUMN rest TYPE bytea USING NULL")
            }
            Change::MoveTable => format!("ALTER TABLE elsewhere RENAME TO {table}"),
        });
    }
}

struct PostgresTaken {
    taker: Session,
    observer: Session,
    number: String,
}

impl Taken for PostgresTaken {
    fn is_waited_for(&mut self) -> bool {
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE {} = ANY (pg_blocking_pids(pid))",
            self.number
        );
        self.observer.run(&waiting).expect("who waits").trim() != "0"
    }

    fn take_more(&mut self, table: &str) {
        let rows = format!("SELECT 1 FROM {} FOR UPDATE", crate::sql::quoted(table));
        self.taker.run(&rows).expect("the rows");
    }
}
