//! Calls after which the lanes directory may be out of reach. Room is set aside before them.

use super::{Real, answer};
use crate::capture::leaving;
use crate::kernel;
use libc::{c_char, c_int};

hook! { chroot = (path: *const c_char) -> c_int {
    leaving::chroot(path)
} }

passing!(setuid, SETUID (user) -> c_int, leaving::reserve(), -1);
passing!(seteuid, SETEUID (user) -> c_int, leaving::reserve(), -1);
passing!(setreuid, SETREUID (real, effective) -> c_int, leaving::reserve(), -1);
passing!(setresuid, SETRESUID (real, effective, saved) -> c_int, leaving::reserve(), -1);
passing!(setfsuid, SETFSUID (user) -> c_int, leaving::reserve(), -1);
passing!(setgid, SETGID (group) -> c_int, leaving::reserve(), -1);
passing!(setegid, SETEGID (group) -> c_int, leaving::reserve(), -1);
passing!(setregid, SETREGID (real, effective) -> c_int, leaving::reserve(), -1);
passing!(setresgid, SETRESGID (real, effective, saved) -> c_int, leaving::reserve(), -1);
passing!(setfsgid, SETFSGID (group) -> c_int, leaving::reserve(), -1);
passing!(unshare, UNSHARE (flags) -> c_int, leaving::reserve_for(flags), -1);
passing!(setns, SETNS (namespace, kind) -> c_int, leaving::reserve(), -1);

static SETUID: Real = Real::new(c"setuid");
static SETEUID: Real = Real::new(c"seteuid");
static SETREUID: Real = Real::new(c"setreuid");
static SETRESUID: Real = Real::new(c"setresuid");
static SETFSUID: Real = Real::new(c"setfsuid");
static SETGID: Real = Real::new(c"setgid");
static SETEGID: Real = Real::new(c"setegid");
static SETREGID: Real = Real::new(c"setregid");
static SETRESGID: Real = Real::new(c"setresgid");
static SETFSGID: Real = Real::new(c"setfsgid");
static UNSHARE: Real = Real::new(c"unshare");
static SETNS: Real = Real::new(c"setns");

/// Looks the functions up while that is easy.
pub(super) fn start() {
    for real in [
        &SETUID, &SETEUID, &SETREUID, &SETRESUID, &SETFSUID, &SETGID, &SETEGID, &SETREGID,
        &SETRESGID, &SETFSGID, &UNSHARE, &SETNS,
    ] {
        real.address();
    }
}
