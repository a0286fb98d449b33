//! End-to-end tests: real programs under the real interposer, the real replicator, real files.
//!
//! A test makes a [`Site`] (a temporary directory with its configuration, state and data), runs
//! programs from `tests/programs` in it under capture, and asks at the end whether the mirror equals
//! the files: through `counterfoil verify`, and through a byte comparison of its own of what
//! `counterfoil restore` gives back. All goes through the command line, as users' work does; only
//! [`Evidence`] reads what captured programs left, and tests of versions write what a later one
//! would, through the lane crate.
//!
//! Promises: every process is started with a parent-death signal and is killed when its handle is
//! dropped; conditions are waited for ([`wait_until`]), never slept on; a site's directory is kept,
//! and its path printed, unless the test came to its end. Randomness comes from a seed that a failing
//! test prints; `COUNTERFOIL_SEED` replays it.
//!
//! The binaries are those that `cargo xtask test` builds beside the test itself.

mod binaries;
mod broker;
mod cards;
mod certificates;
mod chance;
mod console;
mod database_server;
mod decoded;
mod direct;
mod disk_model;
mod evidence;
mod image;
mod operations;
mod payments;
mod programs;
mod proxy;
mod python_client;
mod registry;
mod site;
mod small_disk;
pub mod torture;
mod tree;

pub use binaries::{counterfoil, interposer, report};
pub use broker::{Broker, wait};
pub use cards::{CARD_COLUMNS, WrittenCards, cards_config, written_cards};
pub use certificates::Certificates;
pub use chance::{Chance, rounds};
pub use console::{Console, Metrics};
pub use database_server::{
    DatabaseServer, audit, mirrors_cobol, outlives_kills, pay, waits_for_server,
};
pub use decoded::{Decoded, decode};
pub use direct::{CARD_SWITCH, assert_rows, assert_settled, epoch, wait_for_rows};
pub use disk_model::{Disk, Op, Whence};
pub use evidence::{By, Evidence};
pub use image::Image;
pub use operations::{Shape, script};

pub use counterfoil_servers::{Finished, LIMIT, Process, wait_until};
pub use payments::consistent_payment;
pub use programs::{
    Program, c, c_library, c_static, c_with, cobol, cxx, go, is_on_path, java, node, perl, python,
    shell, tool,
};
pub use proxy::Proxy;
pub use python_client::{compile_schema, example_consumer, python_client};
pub use registry::{Registry, base64};
pub use site::{Difference, File, Group, Site, Verdict};
pub use small_disk::SmallDisk;
pub use tree::{Entry, assert_same_trees, tree};
