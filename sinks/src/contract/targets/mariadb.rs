//! A database of a MariaDB server.

use super::{Server, next_number};
use crate::contract::{Change, Moment, Stop, Taken, Target};
use counterfoil_servers::{Cut, Mariadb, Proxy, Session};
use std::path::PathBuf;
use tempfile::TempDir;

/// All tables in one file, which can grow so far: a disk that is nearly full.
const LITTLE_ROOM: [&str; 2] = [
    "--innodb-file-per-table=0",
    "--innodb-data-file-path=ibdata1:12M:autoextend:max:24M",
];

/// The same file, which can grow further.
const ROOM: &str = "--innodb-data-file-path=ibdata1:12M:autoextend:max:200M";

/// A database, and a user of its own who may do there what a sink does.
pub(crate) struct MariadbTarget {
    server: Server<Mariadb>,
    database: String,
    /// Gone before the server that it leads to.
    way: Way,
}

/// A socket that leads to the server's.
struct Way {
    _directory: TempDir,
    proxy: Proxy,
}

impl Way {
    fn to(server: &Mariadb) -> Way {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let proxy = Proxy::start(&path, &server.socket()).expect("a proxy");
        Way {
            _directory: directory,
            proxy,
        }
    }
}

impl MariadbTarget {
    pub(crate) fn new() -> Self {
        let server = Server::Shared(Mariadb::shared().expect("a MariaDB server"));
        MariadbTarget {
            database: format!("target{}", next_number()),
            way: Way::to(&server),
            server,
        }
    }

    /// The socket that leads to the server by a way that can be cut.
    pub(crate) fn socket(&self) -> PathBuf {
        self.way.proxy.path().to_owned()
    }

    /// That way.
    pub(crate) fn proxy(&self) -> &Proxy {
        &self.way.proxy
    }

    /// The database. Its user has the same name, and needs no password.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// Makes it empty.
    pub(crate) fn fresh(&self) {
        let name = &self.database;
        self.admin(&format!(
            "DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name}; CREATE USER IF NOT EXISTS {name}"
        ));
        self.grant_all();
    }

    fn grant_all(&self) {
        let name = &self.database;
        self.admin(&format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP, CREATE VIEW, SHOW VIEW ON {name}.* TO {name}"
        ));
    }

    /// Runs SQL in it, as `root`.
    pub(crate) fn sql(&self, text: &str) -> String {
        self.server.sql(&self.database, text).expect(text)
    }

    /// A session of `root`'s in it, which stays open.
    pub(crate) fn session(&self) -> Session {
        self.server.session(&self.database).expect("a session")
    }

    fn admin(&self, text: &str) -> String {
        self.server.sql("", text).expect(text)
    }

    /// The table of rows behind a name, which is a view's.
    fn table(&self, name: &str) -> String {
        let number = self.sql(&format!(
            "SELECT rows_table FROM counterfoil_files WHERE table_name = '{name}'"
        ));
        format!("counterfoil_rows_{}", number.trim())
    }

    /// What a table is called while it is elsewhere.
    fn elsewhere(table: &str) -> String {
        format!("elsewhere_{table}")
    }
}

impl Drop for MariadbTarget {
    fn drop(&mut self) {
        if !std::thread::panicking()
            && let Server::Shared(_) = self.server
        {
            let name = &self.database;
            self.admin(&format!(
                "DROP DATABASE IF EXISTS {name}; DROP USER IF EXISTS {name}"
            ));
        }
    }
}

impl Target for MariadbTarget {
    fn use_own_server(&mut self) {
        let server = Mariadb::start(&[]).expect("a MariaDB server");
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
        // A query by itself, as it goes over the wire.
        let commit = b"\x07\0\0\0\x03COMMIT".to_vec();
        self.way.proxy.cut(match moment {
            Moment::BeforeCommit => Cut::Request(commit),
            Moment::AfterCommit => Cut::Answer(commit),
        });
    }

    fn is_cut_to_come(&self) -> bool {
        self.way.proxy.is_armed()
    }

    fn take(&mut self, table: &str) -> Box<dyn Taken> {
        self.admin("CREATE DATABASE IF NOT EXISTS others");
        let weight = format!("others.weight_{}", next_number());
        self.admin(&format!("CREATE TABLE {weight} (x INT)"));
        let mut taker = self.session();
        // Who has written less gives way to a deadlock: that mustn't be this one.
        let begin = format!(
            "SET innodb_lock_wait_timeout = 60; BEGIN; INSERT INTO {weight} SELECT seq FROM seq_1_to_5000"
        );
        taker.run(&begin).expect("a transaction");
        let mut taken = MariadbTaken {
            taker,
            observer: self.session(),
            database: self.database.clone(),
        };
        taken.take_more(table);
        Box::new(taken)
    }

    fn limit_room(&mut self) -> &'static str {
        let server = Mariadb::start(&LITTLE_ROOM).expect("a MariaDB server");
        self.way = Way::to(&server);
        self.server = Server::Own(Box::new(server));
        "is full"
    }

    fn make_room(&mut self) {
        self.server.shut_down().expect("stopping the server");
        self.server
            .raise_with(&[ROOM])
            .expect("starting the server");
    }

    fn revoke(&mut self, _table: &str) -> Vec<String> {
        let name = &self.database;
        self.admin(&format!(
            "REVOKE INSERT, UPDATE, DELETE ON {name}.* FROM {name}"
        ));
        vec!["denied".to_owned()]
    }

    fn grant(&mut self, _table: &str) {
        self.grant_all();
    }

    fn change(&mut self, table: &str, change: Change) {
        let table = self.table(table);
        self.sql(&match change {
            Change::DropColumn => format!("ALTER TABLE {table} DROP COLUMN rest"),
            Change::RenameColumn => {
                format!("ALTER TABLE {table} CHANGE data daten LONGBLOB NOT NULL")
            }
            Change::ChangeType => format!("ALTER TABLE {table} MODIFY rest INT"),
            Change::MoveTable => format!("RENAME TABLE {table} TO {}", Self::elsewhere(&table)),
        });
    }

    fn change_back(&mut self, table: &str, change: Change) {
        let table = self.table(table);
        self.sql(&match change {
            Change::DropColumn => format!("ALTER TABLE {table} ADD COLUMN rest LONGBLOB"),
            Change::RenameColumn => {
                format!("ALTER TABLE {table} CHANGE daten data LONGBLOB NOT NULL")
            }
            Change::ChangeType => format!("ALTER TABLE {table} MODIFY rest LONGBLOB"),
            Change::MoveTable => format!("RENAME TABLE {} TO {table}", Self::elsewhere(&table)),
        });
    }
}

struct MariadbTaken {
    taker: Session,
    observer: Session,
    database: String,
}

impl Taken for MariadbTaken {
    fn is_waited_for(&mut self) -> bool {
        // The tables that tell the same show what was so when nobody had looked for a while.
        let status = self.observer.run("SHOW ENGINE INNODB STATUS");
        let status = status.expect("who waits");
        let transactions = status.split("\\nTRANSACTIONS\\n").nth(1);
        let table = format!(" of table `{}`.", self.database);
        transactions
            .into_iter()
            .flat_map(|text| text.split("FOR THIS LOCK TO BE GRANTED:").skip(1))
            .filter_map(|text| text.split("\\n").nth(1))
            .any(|lock| lock.contains(&table))
    }

    fn take_more(&mut self, table: &str) {
        let rows = format!("SELECT 1 FROM `{table}` FOR UPDATE");
        self.taker.run(&rows).expect("the rows");
    }
}
