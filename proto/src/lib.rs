//! The change event: its schema, the types generated from it, and what orders events.

mod path_text;
mod position;

pub use path_text::path_text;
pub use position::Position;
