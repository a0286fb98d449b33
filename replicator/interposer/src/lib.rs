//! The library preloaded into captured programs.
