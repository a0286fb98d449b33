//! What captured programs and the sequencer share.
