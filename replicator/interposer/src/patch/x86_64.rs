//! Jumps for x86-64.

/// The longest jump: `jmp *[rip]` and the address behind it.
const LONG_BYTES: usize = 14;
/// `endbr64`: where control-flow protection lets indirect jumps land.
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// Code to write.
#[derive(Clone, Copy, Default)]
pub(super) struct Code {
    bytes: [u8; LONG_BYTES],
    len: usize,
}

impl Code {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Bytes at an entry that must stay.
pub(super) fn landing_bytes(begin: &[u8]) -> usize {
    if begin.starts_with(&ENDBR64) {
        ENDBR64.len()
    } else {
        0
    }
}

/// A jump at `from` to `to`: relative when that reaches.
pub(super) fn jump(from: usize, to: usize) -> Code {
    let mut bytes = [0; LONG_BYTES];
    let distance = (to as i64).wrapping_sub(from as i64).wrapping_sub(5);
    if let Ok(distance) = i32::try_from(distance) {
        let [a, b, c, d] = distance.to_le_bytes();
        for (byte, value) in bytes.iter_mut().zip([0xe9, a, b, c, d]) {
            *byte = value;
        }
        return Code { bytes, len: 5 };
    }
    let start = [0xff, 0x25, 0, 0, 0, 0];
    let address = (to as u64).to_le_bytes();
    for (byte, value) in bytes.iter_mut().zip(start.into_iter().chain(address)) {
        *byte = value;
    }
    Code {
        bytes,
        len: LONG_BYTES,
    }
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
            "mov eax, {mprotect}",
            "mov edx, {read_write}",
            "syscall",
            "mov r12, rax",
            "test rax, rax",
            "jnz 3f",
            "2:",
            "mov rcx, qword ptr [r8]",
            "mov r11b, byte ptr [r9]",
            "mov byte ptr [rcx], r11b",
            "add r8, 8",
            "inc r9",
            "dec r10",
            "jnz 2b",
            "3:",
            "mov eax, {mprotect}",
            "mov edx, {read_execute}",
            "syscall",
            mprotect = const libc::SYS_mprotect,
            read_write = const libc::PROT_READ | libc::PROT_WRITE,
            read_execute = const libc::PROT_READ | libc::PROT_EXEC,
            in("rdi") start,
            in("rsi") len,
            inout("r8") addresses => _,
            inout("r9") values => _,
            inout("r10") count => _,
            out("rax") executable,
            out("r12") writable,
            out("rdx") _,
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    (writable == 0, executable == 0)
}

/// x86 notices changed code by itself when a system call (the protection's) lies between.
pub(super) fn make_visible(_: usize, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_encoded_as_the_manual_says() {
        let near = jump(0x1000, 0x2000);
        assert_eq!(near.bytes(), [0xe9, 0xfb, 0x0f, 0, 0]);
        let back = jump(0x2000, 0x1000);
        assert_eq!(back.bytes(), [0xe9, 0xfb, 0xef, 0xff, 0xff]);
        let far = jump(0x1000, 0x7fff_0123_4567_89ab);
        assert_eq!(
            far.bytes(),
            [
                0xff, 0x25, 0, 0, 0, 0, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0xff, 0x7f
            ]
        );
        assert_eq!(landing_bytes(&[0xf3, 0x0f, 0x1e, 0xfa, 0, 0, 0, 0]), 4);
        assert_eq!(landing_bytes(&[0xb8, 1, 0, 0, 0, 0, 0, 0]), 0);
    }
}
