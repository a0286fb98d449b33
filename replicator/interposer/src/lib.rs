//! The library preloaded into captured programs.
//!
//! It sees what a program does to the files that the rules name and puts it into the thread's lane (see
//! `counterfoil-lane`). It promises the program it lives in:
//!
//! - Results, `errno`, file offsets, signals and cancellation are those of the C library without it. Where it
//!   can't keep up (no room, no permission, no memory) it marks a gap on the board and the call goes on.
//! - No allocation from the program's heap, no lock, no output, no panic, and only raw system calls: every hook
//!   may run in a signal handler, in a `vfork` child, or while another thread forks.
//! - An uncaptured call costs one look into a table; an uncaptured `open` for writing a comparison of prefixes.
//!
//! Limits are listed in `docs/interposer.md`.
//!
//! Way through the modules: `hooks` are the C entry points and no more; `capture` decides and reports;
//! `descriptors`, `mappings` and `files` are the tables behind them; `process` and `thread` are what belongs to the
//! process and the thread; `joining` finds the lanes directory; `patch` leads libc's own calls here.

mod arena;
mod cancellation;
mod capture;
mod descriptors;
mod files;
mod hooks;
mod joining;
mod kernel;
mod mappings;
mod patch;
mod paths;
mod process;
mod scratch;
mod thread;

/// Runs when the library is loaded, before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    process::start();
}
