//! What can't be done in a transaction: making and dropping tables, and the views.
//!
//! Every definition commits the transaction that it is in. So a batch that needs any takes a second
//! connection for them, and the lock that lets one such batch at a time into the database. The tables
//! it makes have numbers for names and are nobody's until the batch commits; if it doesn't, they are
//! spare, and the next batch of the stream takes them. What people read are views, named as the
//! catalogue says: a batch marks in its transaction which of them are stale, and they are made anew
//! after it. Whoever finds stale ones later, after a crash, makes them anew as well.
//!
//! A table whose file is gone is released in the transaction, and dropped when nobody reads any more
//! who may have seen it: every snapshot has `counterfoil_readers` open until it ends, and emptying that
//! table waits for them all.

use super::config::MysqlConfig;
use super::entry::read_shape;
use super::error::{Doing, ROW_TOO_LARGE, TOO_MANY_COLUMNS, is_code, transient};
use super::schema::{
    INDEX_NAME, alter_shape, create_content_view, create_file_view, create_rows, create_shaped,
    create_tree_view, limited, quoted, rows_table,
};
use super::session::{Session, column};
use crate::SinkError;
use crate::naming::Names;
use crate::plan::{Evolution, Shape};
use crate::sql::permanent;

/// MySQL's locks of this kind have names of 64 characters at most, and are the server's rather than the database's.
const LOCK: &str = "CONCAT('counterfoil ', MD5(DATABASE()))";

/// The connection for definitions, and the lock.
pub(super) struct Structure {
    session: Session,
    names: Option<Names>,
    /// Numbers of tables that are nobody's, and which kind they are.
    spare: Option<Vec<(u64, u8)>>,
    /// Numbers of tables that a batch was given.
    given: Vec<u64>,
}

/// Which table a file needs.
#[derive(Clone, Copy)]
pub(super) enum Make<'a> {
    /// One of raw images.
    Raw,
    /// One for the files of a tree.
    Shared,
    /// One of this shape.
    Shaped(&'a Shape),
    /// One like another, with all that others have added to it, but of the shape that it evolves to.
    Like {
        number: u64,
        before: &'a Shape,
        evolution: &'a Evolution,
    },
}

impl Make<'_> {
    /// As it stands in `counterfoil_tables`. A spare table of the last kind may be anything.
    pub(super) fn kind(self) -> u8 {
        match self {
            Make::Raw => 0,
            Make::Shared => 1,
            Make::Shaped(_) | Make::Like { .. } => 2,
        }
    }
}

/// What is left to do after [`Structure::settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// Somebody still reads, or something is in the way.
    Something,
}

impl Structure {
    /// Waits for the lock, as long as one waits for any.
    pub(super) async fn open(config: &MysqlConfig) -> Result<Structure, SinkError> {
        let locking = || "taking the lock for changes of tables".to_owned();
        let mut session = Session::open(config).await?;
        let sql = format!("SELECT GET_LOCK({LOCK}, ?)");
        let row = session
            .first(&sql, (config.lock_wait_timeout_s,))
            .await
            .doing(locking)?;
        let taken = match row {
            Some(row) => column::<Option<u8>>(&row, 0).doing(locking)?,
            None => None,
        };
        if taken != Some(1) {
            return Err(transient(
                locking(),
                "another replicator has it (lock_wait_timeout_s is over)",
            ));
        }
        Ok(Structure {
            session,
            names: None,
            spare: None,
            given: Vec::new(),
        })
    }

    /// Whether the lock was held all the time: it is lost with the connection.
    pub(super) async fn check(&mut self) -> Result<(), SinkError> {
        let checking = || "checking the lock for changes of tables".to_owned();
        let sql = format!("SELECT IS_USED_LOCK({LOCK}) = CONNECTION_ID()");
        let row = self.session.first(&sql, ()).await.doing(checking)?;
        match row {
            Some(row) if column::<Option<u8>>(&row, 0).doing(checking)? == Some(1) => Ok(()),
            _ => Err(transient(checking(), "it is lost")),
        }
    }

    /// The number of an empty table that is nobody's; `writer` has the stream's position locked, so no transaction that
    /// wrote into it is still open.
    pub(super) async fn table(
        &mut self,
        writer: &mut Session,
        stream: &str,
        make: Make<'_>,
    ) -> Result<u64, SinkError> {
        let making = || "making a table for rows".to_owned();
        if self.spare.is_none() {
            let rows = writer
                .rows(
                    "SELECT n.rows_table, n.is_shared FROM counterfoil_tables AS n
                     LEFT JOIN counterfoil_files AS f ON f.rows_table = n.rows_table
                     LEFT JOIN counterfoil_trees AS t ON t.rows_table = n.rows_table
                     LEFT JOIN counterfoil_shapes AS s ON s.rows_table = n.rows_table
                     WHERE n.stream = ? AND n.released_ns IS NULL AND f.file_id IS NULL AND t.tree_id IS NULL
                         AND s.rows_table IS NULL
                     ORDER BY n.rows_table DESC",
                    (stream,),
                )
                .await
                .doing(making)?;
            let mut spare = Vec::with_capacity(rows.len());
            for row in &rows {
                spare.push((column(row, 0).doing(making)?, column(row, 1).doing(making)?));
            }
            self.spare = Some(spare);
        }
        let spare = self.spare.get_or_insert_default();
        let kind = make.kind();
        let number = match spare.iter().rposition(|&(_, of)| of == kind) {
            Some(at) => spare.remove(at).0,
            None => {
                self.session
                    .run(
                        "INSERT INTO counterfoil_tables (stream, is_shared) VALUES (?, ?)",
                        (stream, kind),
                    )
                    .await
                    .doing(making)?;
                self.session.inserted_id()
            }
        };
        self.given.push(number);
        // A spare one may have been noted, and never made.
        match make {
            Make::Raw => self.define_table(&create_rows(number, false)).await?,
            Make::Shared => self.define_table(&create_rows(number, true)).await?,
            Make::Shaped(shape) => {
                self.drop_rows(number).await.doing(making)?;
                self.define_table(&create_shaped(number, shape)).await?;
            }
            Make::Like {
                number: old,
                before,
                evolution,
            } => {
                self.drop_rows(number).await.doing(making)?;
                let sql = format!(
                    "CREATE TABLE {} LIKE {}",
                    rows_table(number),
                    rows_table(old)
                );
                self.define_table(&sql).await?;
                let index = self
                    .session
                    .first(
                        "SELECT 1 FROM information_schema.statistics
                         WHERE table_schema = DATABASE() AND table_name = ? AND index_name = ? LIMIT 1",
                        (rows_table(number), INDEX_NAME),
                    )
                    .await
                    .doing(making)?;
                if let Some(sql) = alter_shape(number, before, evolution, index.is_some()) {
                    self.define_table(&sql).await?;
                }
            }
        }
        // From here on nobody drops it before the transaction is over.
        writer
            .text(&format!("SELECT 1 FROM {} LIMIT 1", rows_table(number)))
            .await
            .doing(making)?;
        Ok(number)
    }

    /// Makes or changes a table. Where the server is strict about how large a row may get, it is asked to take it as long as the
    /// rows that come are small enough.
    async fn define_table(&mut self, sql: &str) -> Result<(), SinkError> {
        let making = || "making a table for rows".to_owned();
        let mut made = self.session.text(sql).await;
        if let Err(error) = &made
            && is_code(error, &[ROW_TOO_LARGE])
        {
            // Not everybody may say this.
            let relaxed = self
                .session
                .text("SET SESSION innodb_strict_mode = OFF")
                .await;
            if relaxed.is_ok() {
                made = self.session.text(sql).await;
            }
        }
        match made {
            Err(error) if is_too_large(&error) => Err(permanent(
                making(),
                error.to_string(),
                "leave some of the file's fields out with `columns` or `without`: a row has to fit into a page of the server's, \
                 and to have no more than a thousand columns",
            )),
            made => made.doing(making),
        }
    }

    async fn drop_rows(&mut self, number: u64) -> Result<(), mysql_async::Error> {
        let sql = format!("DROP TABLE IF EXISTS {}", rows_table(number));
        self.session.text(&sql).await
    }

    /// Drops the tables that were given to a batch that was taken back, and lets go of the lock.
    pub(super) async fn take_back(mut self) -> Result<(), SinkError> {
        let dropping = || "dropping tables of a rehearsal".to_owned();
        for number in std::mem::take(&mut self.given) {
            self.drop_rows(number).await.doing(dropping)?;
            self.session
                .run(
                    "DELETE FROM counterfoil_tables WHERE rows_table = ?",
                    (number,),
                )
                .await
                .doing(dropping)?;
        }
        self.abandon().await;
        Ok(())
    }

    /// A name that nothing in the database has. It counts as used from now on.
    pub(super) async fn free_name(
        &mut self,
        writer: &mut Session,
        wanted: &str,
    ) -> Result<String, SinkError> {
        self.list_names(writer).await?;
        Ok(self.names.get_or_insert_default().take(wanted, limited))
    }

    /// Finds out which names are in use, unless it is known.
    pub(super) async fn list_names(&mut self, writer: &mut Session) -> Result<(), SinkError> {
        let listing = || "listing the tables".to_owned();
        if self.names.is_none() {
            let rows = writer
                .rows(
                    "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()
                     UNION SELECT table_name FROM counterfoil_files
                     UNION SELECT table_name FROM counterfoil_trees
                     UNION SELECT view_name FROM counterfoil_trees
                     UNION SELECT kept_for FROM counterfoil_shapes WHERE kept_for IS NOT NULL",
                    (),
                )
                .await
                .doing(listing)?;
            // A view that is to go with the catalogue's next state is no obstacle.
            let going = writer
                .rows(
                    "SELECT v.name FROM counterfoil_views AS v
                     LEFT JOIN counterfoil_files AS f ON f.table_name = v.name
                     LEFT JOIN counterfoil_trees AS t ON t.table_name = v.name
                     LEFT JOIN counterfoil_trees AS c ON c.view_name = v.name
                     LEFT JOIN counterfoil_shapes AS k ON k.kept_for = v.name
                     WHERE v.stale > 0 AND f.file_id IS NULL AND t.tree_id IS NULL AND c.tree_id IS NULL
                         AND k.rows_table IS NULL",
                    (),
                )
                .await
                .doing(listing)?;
            let mut names = Names::default();
            for row in &rows {
                names.add(&column::<String>(row, 0).doing(listing)?);
            }
            for row in &going {
                names.release(&column::<String>(row, 0).doing(listing)?);
            }
            self.names = Some(names);
        }
        Ok(())
    }

    /// A name that is used no longer.
    pub(super) fn release_name(&mut self, name: &str) {
        if let Some(names) = &mut self.names {
            names.release(name);
        }
    }

    /// Lets go of the lock at once: the batch isn't applied.
    pub(super) async fn abandon(self) {
        // A connection that can't be closed is closed by the server, and the lock goes with it.
        let _ = self.session.close().await;
    }

    /// Makes the views as the catalogue has them, drops tables that were released, and lets go of the lock.
    pub(super) async fn settle(mut self) -> Result<Left, SinkError> {
        let views = self.refresh_views().await?;
        let tables = self.drop_released().await?;
        self.session
            .close()
            .await
            .doing(|| "closing a connection".into())?;
        Ok(if (views, tables) == (Left::Nothing, Left::Nothing) {
            Left::Nothing
        } else {
            Left::Something
        })
    }

    async fn refresh_views(&mut self) -> Result<Left, SinkError> {
        let looking = || "looking for views to make anew".to_owned();
        let rows = self
            .session
            .rows(
                "SELECT v.name, v.stale, COALESCE(f.rows_table, k.rows_table), COALESCE(f.identity, k.identity),
                     t.rows_table, c.rows_table, COALESCE(s.shape, k.shape)
                 FROM counterfoil_views AS v
                 LEFT JOIN counterfoil_files AS f ON f.table_name = v.name AND f.tree_id IS NULL
                 LEFT JOIN counterfoil_shapes AS s ON s.rows_table = f.rows_table
                 LEFT JOIN counterfoil_trees AS t ON t.table_name = v.name
                 LEFT JOIN counterfoil_trees AS c ON c.view_name = v.name
                 LEFT JOIN counterfoil_shapes AS k ON k.kept_for = v.name
                 WHERE v.stale > 0",
                (),
            )
            .await
            .doing(looking)?;
        let mut done: Vec<(String, u64, bool)> = Vec::with_capacity(rows.len());
        let mut made = Vec::new();
        let mut left = Left::Nothing;
        for row in &rows {
            let name: String = column(row, 0).doing(looking)?;
            let stale: u64 = column(row, 1).doing(looking)?;
            let file: Option<u64> = column(row, 2).doing(looking)?;
            let identity: Option<String> = column(row, 3).doing(looking)?;
            let tree: Option<u64> = column(row, 4).doing(looking)?;
            let content: Option<u64> = column(row, 5).doing(looking)?;
            let shape: Option<String> = column(row, 6).doing(looking)?;
            let shape = read_shape(shape.as_deref(), looking)?;
            let sql = match (file.zip(identity), tree, content) {
                (Some((number, identity)), _, _) => {
                    create_file_view(&name, number, &identity, &shape)
                }
                (None, Some(number), _) => create_tree_view(&name, number),
                (None, None, Some(number)) => create_content_view(&name, number),
                (None, None, None) => {
                    // Drops first: names may differ by case alone.
                    if self
                        .define(&name, &format!("DROP VIEW IF EXISTS {}", quoted(&name)))
                        .await?
                    {
                        done.push((name, stale, true));
                    } else {
                        left = Left::Something;
                    }
                    continue;
                }
            };
            made.push((name, stale, sql));
        }
        for (name, stale, sql) in made {
            if self.define(&name, &sql).await? {
                done.push((name, stale, false));
            } else {
                left = Left::Something;
            }
        }
        let noting = || "noting which views are made".to_owned();
        if !done.is_empty() {
            self.session.text("BEGIN").await.doing(noting)?;
            for (name, stale, is_gone) in &done {
                // Unless another batch has made it stale again meanwhile.
                let sql = if *is_gone {
                    "DELETE FROM counterfoil_views WHERE name = ? AND stale = ?"
                } else {
                    "UPDATE counterfoil_views SET stale = 0 WHERE name = ? AND stale = ?"
                };
                self.session
                    .run(sql, (name.as_str(), *stale))
                    .await
                    .doing(noting)?;
            }
            self.session.text("COMMIT").await.doing(noting)?;
        }
        Ok(left)
    }

    /// Makes or drops a view; `false` if it can't be now, which is no reason to stop.
    async fn define(&mut self, name: &str, sql: &str) -> Result<bool, SinkError> {
        match self.session.text(sql).await {
            Ok(()) => Ok(true),
            Err(error) if !self.session.is_broken() => {
                let problem = Err::<(), _>(error)
                    .doing(|| format!("making the view {name:?}"))
                    .err();
                if let Some(problem) = problem {
                    tracing::warn!("{problem}; the rows are up to date all the same");
                }
                Ok(false)
            }
            Err(error) => Err(error).doing(|| format!("making the view {name:?}")),
        }
    }

    async fn drop_released(&mut self) -> Result<Left, SinkError> {
        let dropping = || "dropping tables of files that are gone".to_owned();
        let rows = self
            .session
            .rows(
                "SELECT rows_table FROM counterfoil_tables WHERE released_ns IS NOT NULL",
                (),
            )
            .await
            .doing(dropping)?;
        if rows.is_empty() {
            return Ok(Left::Nothing);
        }
        // Whoever comes now waits as long as this waits for those who are there: not for long.
        self.session
            .text("SET SESSION lock_wait_timeout = 1")
            .await
            .doing(dropping)?;
        if let Err(error) = self
            .session
            .text("TRUNCATE TABLE counterfoil_readers")
            .await
        {
            if is_code(&error, &[1205]) {
                return Ok(Left::Something);
            }
            return Err(error).doing(dropping);
        }
        let mut left = Left::Nothing;
        for row in &rows {
            let number: u64 = column(row, 0).doing(dropping)?;
            match self.drop_rows(number).await {
                Ok(()) => {}
                Err(error) if is_code(&error, &[1205]) => {
                    left = Left::Something;
                    continue;
                }
                Err(error) => return Err(error).doing(dropping),
            }
            self.session
                .run(
                    "DELETE FROM counterfoil_tables WHERE rows_table = ?",
                    (number,),
                )
                .await
                .doing(dropping)?;
        }
        Ok(left)
    }
}

/// Whether the server takes no table with so many columns, or such large ones. (It may say so with the storage engine's number.)
fn is_too_large(error: &mysql_async::Error) -> bool {
    is_code(error, &[ROW_TOO_LARGE, TOO_MANY_COLUMNS])
        || is_code(error, &[1005]) && error.to_string().contains("errno: 185")
}

/// Whether there are stale views or released tables.
pub(super) async fn is_pending(session: &mut Session) -> Result<bool, SinkError> {
    let looking = || "looking for views to make anew".to_owned();
    let row = session
        .first(
            "SELECT EXISTS (SELECT 1 FROM counterfoil_views WHERE stale > 0)
                 OR EXISTS (SELECT 1 FROM counterfoil_tables WHERE released_ns IS NOT NULL)",
            (),
        )
        .await
        .doing(looking)?;
    match row {
        Some(row) => Ok(column::<u8>(&row, 0).doing(looking)? != 0),
        None => Ok(false),
    }
}
