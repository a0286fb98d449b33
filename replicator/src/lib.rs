//! Counterfoil: record files to relational databases, in real time.
