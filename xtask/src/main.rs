//! What people and CI both run.
fn main() {}
