//! The contract that every sink keeps, as tests, and a sink in memory to compare with.
//!
//! A sink plugs in with a [`Harness`] and one line, which makes a test of every case:
//!
//! ```ignore
//! mod contract {
//!     counterfoil_sinks::sink_contract!(super::MyHarness::new());
//! }
//! ```
//!
//! Every case runs against the target and against [`MemorySink`], compares all that can be read from
//! both after every batch, opens the target anew, and compares again. Beside that a case says itself
//! what it expects, so that the model is tested too.
//!
//! What goes wrong in a target's server, on the way to it, or by other people's doing is a second list of cases. A sink plugs
//! in with [`Faults`], whose [`Target`] makes it go wrong; there are targets for PostgreSQL, MariaDB and SQLite, whatever the
//! sink that gets at them:
//!
//! ```ignore
//! mod faults {
//!     counterfoil_sinks::sink_faults!(super::MyFaults::new());
//! }
//! ```
//!
//! What can't apply to a target, its harness says ([`Harness::cannot`]); nothing is left out without a reason. `cargo xtask test`
//! makes a table of all sinks and cases from what these tests report. A sink's name there is that of their modules.

mod cases;
mod faults;
mod memory;
mod plans;
mod random;
#[cfg(test)]
pub(crate) mod targets;
mod trial;

pub use cases::*;
pub use faults::*;
pub use memory::MemorySink;
pub use plans::*;
pub use random::random_batches;
pub use trial::{
    STREAM, Trial, assert_permanent, batch, changes, content, file, record, residue, static_file,
};

use crate::{FileChanges, Sink, SinkError};
use std::any::Any;
use std::io::Write as _;

/// Names the file that is told which tests are cases, and why some can't apply: `cargo xtask test` makes a table of it.
const CASES_VARIABLE: &str = "COUNTERFOIL_CONTRACT_CASES";

/// Tells `cargo xtask test` that a test is a case of the contract. `test` is its name, with its modules.
pub fn begin_case(test: &str) {
    note_case(test, "");
}

/// Whether a case applies to a target. Where it doesn't, `cargo xtask test` is told the reason.
pub fn applies(harness: &dyn Harness, test: &str) -> bool {
    let (_, case) = test.rsplit_once("::").unwrap_or_default();
    let Some(reason) = harness.cannot(case) else {
        return true;
    };
    println!("{case} can't apply: {reason}");
    note_case(test, reason);
    false
}

fn note_case(test: &str, reason: &str) {
    let Some(path) = std::env::var_os(CASES_VARIABLE) else {
        return;
    };
    // The test harness doesn't know the crate's name.
    let (_, test) = test.split_once("::").unwrap_or_default();
    let line = format!("{test}\t{reason}\n");
    let file = std::fs::File::options().append(true).open(path);
    let noted = file.and_then(|mut file| file.write_all(line.as_bytes()));
    noted.expect("noting a case for the table");
}

/// How the suite gets at a target.
pub trait Harness {
    /// Why this case can't apply to the target, where it can't: one line, which ends up in the table of sinks and cases.
    /// Everything else is run, and has to hold.
    fn cannot(&self, case: &str) -> Option<&'static str> {
        let _ = case;
        None
    }

    /// Makes the target empty: as if nothing had ever been applied to it. No sink is open.
    fn fresh(&mut self);

    /// Opens the target, whatever is in it, for applying. Earlier sinks may still be open.
    fn open(&mut self) -> Result<Box<dyn Sink>, SinkError>;

    /// Opens the target for reading while a writer may be open.
    fn open_read_only(&mut self) -> Result<Box<dyn Sink>, SinkError> {
        self.open()
    }

    /// Changes to this path that the target refuses for good ([`SinkError::Permanent`]). They come last in a batch, to see
    /// that the rest of it leaves nothing behind. Where there are none, [`Harness::cannot`] says why.
    fn refused(&self, path: &[u8]) -> Option<FileChanges> {
        let _ = path;
        None
    }

    /// Makes applying fail with [`SinkError::Transient`] until the returned guard is dropped. Reading may go on. Where that
    /// can't be done, [`Harness::cannot`] says why.
    fn obstruct(&mut self) -> Option<Box<dyn Any>> {
        None
    }

    /// Changes the content of a record in this table behind the sink's back. Where that can't be done, [`Harness::cannot`]
    /// says why.
    fn tamper(&mut self, table: &str, id: u64, data: &[u8]) -> bool {
        let _ = (table, id, data);
        false
    }

    /// What is in these columns of a table, row by row, in any order; `None`: they can't be seen. The identity may be
    /// among them. Each value as text, as the database's own conversion gives it, but for bytes, which are hexadecimal
    /// digits, and floats, which have to have all their digits.
    fn rows(&mut self, table: &str, columns: &[&str]) -> Option<Vec<Vec<Option<String>>>> {
        let _ = (table, columns);
        None
    }

    /// The names of a table's columns, in their order, if that can be asked.
    fn columns(&mut self, table: &str) -> Option<Vec<String>> {
        let _ = table;
        None
    }

    /// Makes the target refuse rows with this text in this column of this table (by a constraint or a trigger). Where that
    /// can't be done, [`Harness::cannot`] says why.
    fn forbid(&mut self, table: &str, column: &str, text: &str) -> bool {
        let _ = (table, column, text);
        false
    }

    /// How many random histories [`random_batches`] tries.
    fn random_histories(&self) -> u32 {
        32
    }
}

/// Makes a `#[test]` of every case of the contract. The argument is an expression that makes a
/// [`Harness`] of one's own; it is evaluated once per test.
#[macro_export]
macro_rules! sink_contract {
    ($harness:expr) => {
        $crate::sink_contract! { @cases $harness;
            resumes_where_it_stopped
            refuses_what_is_not_after
            refuses_what_was_made_for_another_position
            accepts_a_new_epoch
            leaves_nothing_of_a_refused_batch
            survives_an_obstruction
            folds_one_key
            folds_one_key_in_one_batch
            never_shows_half_a_batch
            keeps_every_byte
            keeps_a_huge_record
            keeps_high_and_low_identities
            swaps_record_and_residue
            keeps_many_residues
            clears_then_puts
            clears_ranges
            shrinks_what_it_remembers
            makes_an_empty_file
            renames_a_file
            renames_onto_a_file
            renames_in_a_chain
            swaps_two_names
            renames_what_it_never_saw
            removes_and_makes_again
            removes_what_is_not_there
            quotes_identifiers
            takes_odd_paths
            keeps_same_base_names_apart
            honours_configured_tables
            follows_a_changed_description
            keeps_attributes
            keeps_streams_apart
            takes_many_files_at_once
            keeps_a_tree_in_one_table
            renames_within_a_tree
            keeps_what_static_files_are
            keeps_what_links_lead_to
            moves_between_trees_and_tables
            follows_a_changed_tree
            takes_a_large_tree_at_once
            lists_files_in_order
            stops_a_walk_early
            reads_one_snapshot
            takes_turns_with_another_sink
            shows_tampering
            random_batches
        }
    };
    (@cases $harness:expr; $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                const TEST: &str = concat!(module_path!(), "::", stringify!($case));
                $crate::contract::begin_case(TEST);
                let mut harness = $harness;
                if $crate::contract::applies(&harness, TEST) {
                    $crate::contract::$case(&mut harness);
                }
            }
        )*
    };
}

/// Makes a `#[test]` of every case of faults. The argument is an expression that makes a [`Faults`] of one's own; it is
/// evaluated once per test.
#[macro_export]
macro_rules! sink_faults {
    ($harness:expr) => {
        $crate::sink_contract! { @cases $harness;
            survives_a_killed_server
            survives_an_orderly_shutdown
            survives_a_cut_before_the_commit
            finds_out_about_a_cut_after_the_commit
            repeats_an_amendment_that_was_cut
            survives_a_deadlock
            gives_up_waiting_for_a_lock
            goes_on_when_a_lock_is_free
            waits_for_room
            names_a_missing_permission
            names_a_dropped_column
            names_a_renamed_column
            names_a_column_of_another_type
            names_a_missing_table
            replaces_a_missing_table
        }
    };
}

/// Makes a `#[test]` of every case of what becomes of files that have a [plan](crate::plan), as [`sink_contract!`](crate::sink_contract)
/// does of all others. The harness has to say [`Harness::rows`].
#[macro_export]
macro_rules! sink_plan_contract {
    ($harness:expr) => {
        $crate::sink_contract! { @cases $harness;
            keeps_every_kind_of_column
            keeps_every_decimal_of_a_second
            keeps_text_of_every_plane
            tells_what_cant_be_decoded
            keeps_columns_with_their_rows
            renames_files_with_columns
            fills_columns_as_they_are_planned
            keeps_no_raw_image
            gives_columns_to_a_table_that_is_there
            takes_columns_away
            follows_a_changed_schema
            makes_columns_anew_where_it_may
            refuses_a_column_that_cant_become
            fills_rows_anew
            hides_what_was_shown
            keeps_many_columns
            quotes_names_of_columns
            refuses_a_row_and_leaves_nothing
            rehearses_without_a_trace
            keeps_every_change
            keeps_a_history_without_raw_images
            goes_on_with_a_history
            renames_a_history
            clears_a_history
            takes_an_amendment_twice
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The model is held to the contract as every sink is.
    #[derive(Default)]
    struct InMemory(MemorySink);

    impl Harness for InMemory {
        fn fresh(&mut self) {
            self.0 = MemorySink::default();
        }

        fn open(&mut self) -> Result<Box<dyn Sink>, SinkError> {
            Ok(Box::new(self.0.clone()))
        }

        fn cannot(&self, case: &str) -> Option<&'static str> {
            match case {
                "leaves_nothing_of_a_refused_batch" => Some("it takes every number and size"),
                "survives_an_obstruction" => Some("there are no locks to take"),
                "shows_tampering"
                | "refuses_a_row_and_leaves_nothing"
                | "rehearses_without_a_trace" => Some("nobody else gets at it"),
                "takes_an_amendment_twice" => Some("what it has is what the images say"),
                _ => None,
            }
        }
    }

    crate::sink_contract!(InMemory::default());

    mod plans {
        crate::sink_plan_contract!(super::InMemory::default());
    }
}
