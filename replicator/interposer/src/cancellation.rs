//! Thread cancellation, as libc's own cancellation points do it.
//!
//! A call that can block is made with asynchronous cancellation on, so that `pthread_cancel` ends it; the unwinding
//! then passes through the hooks, which own nothing that would have to be dropped. A captured call is not
//! interrupted: a pending cancellation is acted on before it begins.

use crate::kernel::{self, Args};
use core::sync::atomic::{AtomicPtr, Ordering};
use libc::{c_int, c_long};

// Both may unwind, yet they are declared as if they did not: where panics abort, the compiler surrounds calls that may
// unwind with an abort. Cancellation unwinds by the tables of frames only, and the frames up to the program have nothing
// to run on the way (the tests cancel threads in both ways of building).
unsafe extern "C" {
    fn pthread_setcanceltype(kind: c_int, before: *mut c_int) -> c_int;
    fn pthread_testcancel();
}

const PTHREAD_CANCEL_ASYNCHRONOUS: c_int = 1;

/// libc's `__libc_single_threaded`; null when it has none, which counts as "there are threads".
static SINGLE_THREADED: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

/// Looks up what tells whether there are threads. For the constructor.
pub(crate) fn start() {
    // SAFETY: the name ends with NUL.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__libc_single_threaded".as_ptr()) };
    SINGLE_THREADED.store(symbol.cast(), Ordering::Relaxed);
}

/// Whether this is certainly the process's only thread. libc also denies it when the only thread cancelled itself.
#[inline(always)]
pub(crate) fn is_single_threaded() -> bool {
    let flag = SINGLE_THREADED.load(Ordering::Relaxed);
    // SAFETY: libc's own variable, a char that it never unmaps.
    !flag.is_null() && unsafe { flag.read_volatile() } != 0
}

/// Makes a system call that is a cancellation point.
///
/// # Safety
/// As [`kernel::call`]; nothing in the callers may need dropping.
#[inline(always)]
pub(crate) unsafe fn call(number: c_long, args: Args) -> isize {
    if is_single_threaded() {
        // SAFETY: handed on.
        unsafe { kernel::call(number, args) }
    } else {
        // SAFETY: handed on.
        unsafe { call_with_threads(number, args) }
    }
}

#[inline(never)]
unsafe fn call_with_threads(number: c_long, args: Args) -> isize {
    let mut before = 0;
    // SAFETY: `before` is ours; the rest is handed on.
    unsafe {
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &mut before);
        let result = kernel::call(number, args);
        pthread_setcanceltype(before, &mut before);
        result
    }
}

/// Acts on a pending cancellation, before a captured call begins.
#[inline(always)]
pub(crate) fn test() {
    if !is_single_threaded() {
        // SAFETY: no caller up to the program has anything to drop.
        unsafe { pthread_testcancel() };
    }
}
