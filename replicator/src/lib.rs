//! Counterfoil: what unmodified programs write to their record files, mirrored into relational databases.
//!
//! The way of the data, which is also the order of the modules: [`capture`] merges what programs did into one journal,
//! [`publish`] turns it into events, [`transport`] carries them, [`apply`] folds them into batches for a sink.

pub mod apply;
pub mod backlog;
pub mod capture;
pub mod config;
pub mod console;
pub mod copybooks;
pub mod coverage;
pub mod dead_letters;
pub mod digest;
pub mod event;
pub mod progress;
pub mod publish;
pub mod replicator;
pub mod requests;
pub mod restore;
pub mod state;
pub mod status;
pub mod transport;
pub mod typed;
pub mod verification;
pub mod verify;
pub mod words;
