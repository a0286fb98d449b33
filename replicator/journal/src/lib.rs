//! The durable, ordered log of captured operations.
