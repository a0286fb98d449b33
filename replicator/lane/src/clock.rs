//! The one clock that operations are ordered by.

/// Nanoseconds of `CLOCK_MONOTONIC`: the same for all processes of a host, never stepped.
#[inline(always)]
pub fn now() -> u64 {
    #[cfg(schedules)]
    return crate::sync::checked::now();
    #[cfg(not(schedules))]
    read(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970, for people and for lag; may be stepped.
pub fn wall() -> i64 {
    read(libc::CLOCK_REALTIME) as i64
}

#[inline(always)]
fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is ours. clock_gettime is async-signal-safe and goes to the vDSO.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
