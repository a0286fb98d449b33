//! The change event: its schema, the types generated from it, and what orders events.

mod position;

pub use position::Position;
