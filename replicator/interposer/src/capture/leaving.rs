//! Going where the lanes directory can't be reached: another root, another user, other namespaces. Segments can't be made
//! there any more, so some are made before.

use crate::kernel;
use crate::process;
use crate::scratch;
use crate::{paths, thread};
use libc::c_char;

/// Makes spare lanes, once in a process: when the rules name anything at all.
pub(crate) fn reserve() {
    if let Some(state) = process::current()
        && !process::is_borrowed(state)
        && !process::rules().is_empty()
        && state.begin_reserving()
    {
        thread::provide(state);
    }
}

/// As [`reserve`], for `unshare`: mounts and users are what paths and permissions go by.
pub(crate) fn reserve_for(flags: usize) {
    if flags & (libc::CLONE_NEWNS | libc::CLONE_NEWUSER) as usize != 0 {
        reserve();
    }
}

/// `chroot`. What paths mean afterwards the process remembers, since rules and names speak of the first root.
///
/// # Safety
/// `path` must be what the program gave.
pub(crate) unsafe fn chroot(path: *const c_char) -> isize {
    let args = [path as usize, 0, 0, 0, 0, 0];
    // SAFETY: handed on to our caller.
    let call = || unsafe { kernel::call(libc::SYS_chroot, args) };
    let Some(state) = process::current() else {
        return call();
    };
    if process::is_borrowed(state) {
        return call();
    }
    reserve();
    // SAFETY: as above.
    let root = scratch::with(|scratch| unsafe { paths::future_root(path, scratch) }).flatten();
    let result = call();
    if result == 0 {
        paths::set_root(root);
    }
    result
}
