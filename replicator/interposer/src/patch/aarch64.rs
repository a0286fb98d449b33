//! Jumps for aarch64.

const CODE_BYTES: usize = 16;
/// `bti c` and `paciasp`, which both let indirect calls land; the latter also signs, so it is replaced.
const BTI_C: [u8; 4] = [0x5f, 0x24, 0x03, 0xd5];
/// `ldr x16, .+8`
const LDR_X16: [u8; 4] = [0x50, 0x00, 0x00, 0x58];
/// `br x16`: with x16 it may land on `bti c`.
const BR_X16: [u8; 4] = [0x00, 0x02, 0x1f, 0xd6];

/// Code to write.
#[derive(Clone, Copy, Default)]
pub(super) struct Code {
    bytes: [u8; CODE_BYTES],
}

impl Code {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes at an entry that must stay.
pub(super) fn landing_bytes(begin: &[u8]) -> usize {
    if begin.starts_with(&BTI_C) {
        BTI_C.len()
    } else {
        0
    }
}

/// A jump to `to`, wherever it is.
pub(super) fn jump(_: usize, to: usize) -> Code {
    let mut bytes = [0; CODE_BYTES];
    let code = LDR_X16
        .into_iter()
        .chain(BR_X16)
        .chain((to as u64).to_le_bytes());
    for (byte, value) in bytes.iter_mut().zip(code) {
        *byte = value;
    }
    Code { bytes }
}

/// Makes pages writable, writes `count` bytes to as many addresses, and makes the pages executable again. Tells
/// whether each change of protection worked.
///
/// # Safety
/// The pages must be readable and executable code in which nothing runs, the addresses must lie in them, and both
/// arrays must have `count` elements, at least one.
pub(super) unsafe fn write(
    start: usize,
    len: usize,
    addresses: *const usize,
    values: *const u8,
    count: usize,
) -> (bool, bool) {
    let (writable, executable): (isize, isize);
    // SAFETY: the caller vouches for the memory; the registers that the kernel and the loop change are named.
    unsafe {
        core::arch::asm!(
            "mov x2, {read_write}",
            "svc 0",
            "mov x9, x0",
            "cbnz x0, 3f",
            "2:",
            "ldr x10, [x3], #8",
            "ldrb w11, [x4], #1",
            "strb w11, [x10]",
            "subs x5, x5, #1",
            "b.ne 2b",
            "3:",
            "mov x0, x6",
            "mov x2, {read_execute}",
            "svc 0",
            read_write = const libc::PROT_READ | libc::PROT_WRITE,
            read_execute = const libc::PROT_READ | libc::PROT_EXEC,
            inout("x0") start => executable,
            in("x1") len,
            out("x2") _,
            inout("x3") addresses => _,
            inout("x4") values => _,
            inout("x5") count => _,
            in("x6") start,
            in("x8") libc::SYS_mprotect,
            out("x9") writable,
            out("x10") _,
            out("x11") _,
            options(nostack)
        );
    }
    (writable == 0, executable == 0)
}

/// Makes changed code visible to instruction fetch: data cache to the point of unification, then the instruction cache.
pub(super) fn make_visible(address: usize, len: usize) {
    // The smallest line there may be; a step too short only repeats.
    const LINE_BYTES: usize = 4;
    let lines = || (address..address + len).step_by(LINE_BYTES);
    for at in lines() {
        // SAFETY: cache maintenance by address of memory that is mapped and readable.
        unsafe { core::arch::asm!("dc cvau, {}", in(reg) at, options(nostack, preserves_flags)) };
    }
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb ish", options(nostack, preserves_flags)) };
    for at in lines() {
        // SAFETY: as above.
        unsafe { core::arch::asm!("ic ivau, {}", in(reg) at, options(nostack, preserves_flags)) };
    }
    // SAFETY: barriers.
    unsafe { core::arch::asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}
