//! For tests and benchmarks: child processes that never outlive them, and database servers of their own.
//!
//! A server is one per test binary, in a directory of its own ([`Keeper`]), and is gone with the process that started it,
//! however that ended. It is found through Debian's packages; an error names the one that is missing. The crate knows
//! nothing of Counterfoil, so that sinks and end-to-end tests can both use it.
//!
//! Conditions are waited for ([`wait_until`]), never slept on.

mod keeper;
mod mariadb;
mod poll;
mod postgres;
mod process;
mod proxy;
mod session;
mod user;

pub use keeper::{Keeper, free_port};
pub use mariadb::Mariadb;
pub use poll::{LIMIT, wait_until};
pub use postgres::Postgres;
pub use process::{Finished, Process};
pub use proxy::{Cut, Proxy};
pub use session::Session;
pub use user::{AsNobody, ServerUser};
