//! SIGPIPE: Rust's runtime ignores it before `main`, which is right for some verbs and not for others.

use std::sync::atomic::{AtomicBool, Ordering};

static WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Runs before Rust's runtime, so it still sees what this process inherited.
#[used]
// SAFETY: a function of the kind that this section holds, run once by the loader.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = {
    extern "C" fn look() {
        // SAFETY: only asks; zero bytes are a valid sigaction.
        let ignored = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGPIPE, std::ptr::null(), &mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
        };
        WAS_IGNORED.store(ignored, Ordering::Relaxed);
    }
    look
};

/// Lets `counterfoil status | head` end quietly when `head` does, as other tools do.
pub(super) fn end_quietly() {
    // SAFETY: the default action for a signal, set before any thread is started.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// What a program run by this process is to inherit, as if this process had not been between: for the time between fork (if
/// any) and exec.
pub(super) fn hand_on() -> std::io::Result<()> {
    if WAS_IGNORED.load(Ordering::Relaxed) {
        // SAFETY: async-signal-safe, and this process has no use for the signal any more.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    }
    Ok(())
}
