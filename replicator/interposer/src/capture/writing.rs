//! Writing, truncating and flushing through a descriptor.

use super::policies::{self, Bytes, Refusal};
use super::{Cancel, UNKNOWN, captured, captured_now, operation, report, uncaptured};
use crate::descriptors::{self, APPEND, View};
use crate::kernel::{self, Args};
use crate::process;
use crate::{cancellation, files, thread};
use counterfoil_lane::clock;
use counterfoil_lane::frame::Kind;
use counterfoil_lane::writer::{Operation, Target};
use libc::{c_int, c_long, c_void, iovec};

/// `RWF_APPEND` and `RWF_NOAPPEND` of `pwritev2`.
const RWF_APPEND: c_int = 0x10;
const RWF_NOAPPEND: c_int = 0x20;

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// To the file offset, which moves.
    Offset,
    /// To the end of the file, and the file offset moves there.
    OffsetAtEnd,
    /// There.
    At(u64),
    /// To the end of the file; the file offset stays.
    End,
}

/// `write`.
///
/// # Safety
/// `data` must be what the program gave.
#[inline(always)]
pub(crate) unsafe fn write(fd: c_int, data: *const c_void, len: usize, cancel: Cancel) -> isize {
    let args = [fd as usize, data as usize, len, 0, 0, 0];
    let description = captured_now(fd);
    // SAFETY: handed on; the part is only read when the kernel has read it.
    unsafe {
        if description == 0 {
            return uncaptured(cancel, libc::SYS_write, args);
        }
        let part = iovec {
            iov_base: data.cast_mut(),
            iov_len: len,
        };
        transfer(
            description,
            fd,
            libc::SYS_write,
            args,
            &part,
            1,
            Position::Current(0),
            cancel,
        )
    }
}

/// Which position the call names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// The file offset, with flags of `pwritev2`.
    Current(c_int),
    /// There, with these flags.
    At(u64, c_int),
}

/// `pwrite`.
///
/// # Safety
/// `data` must be what the program gave.
#[inline(always)]
pub(crate) unsafe fn pwrite(
    fd: c_int,
    data: *const c_void,
    len: usize,
    offset: i64,
    cancel: Cancel,
) -> isize {
    let args = [fd as usize, data as usize, len, offset as usize, 0, 0];
    let description = captured_now(fd);
    // SAFETY: as in write.
    unsafe {
        if description == 0 {
            return uncaptured(cancel, libc::SYS_pwrite64, args);
        }
        let part = iovec {
            iov_base: data.cast_mut(),
            iov_len: len,
        };
        transfer(
            description,
            fd,
            libc::SYS_pwrite64,
            args,
            &part,
            1,
            Position::At(offset as u64, 0),
            cancel,
        )
    }
}

/// `writev`.
///
/// # Safety
/// `parts` must be what the program gave.
#[inline(always)]
pub(crate) unsafe fn writev(fd: c_int, parts: *const iovec, count: c_int, cancel: Cancel) -> isize {
    let args = [fd as usize, parts as usize, count as usize, 0, 0, 0];
    let description = captured_now(fd);
    // SAFETY: as in write.
    unsafe {
        if description == 0 {
            return uncaptured(cancel, libc::SYS_writev, args);
        }
        transfer(
            description,
            fd,
            libc::SYS_writev,
            args,
            parts,
            count as usize,
            Position::Current(0),
            cancel,
        )
    }
}

/// `pwritev` and, with flags, `pwritev2`; the offset -1 of the latter means the file offset.
///
/// # Safety
/// `parts` must be what the program gave.
#[inline(always)]
pub(crate) unsafe fn pwritev(
    fd: c_int,
    parts: *const iovec,
    count: c_int,
    offset: i64,
    flags: Option<c_int>,
    cancel: Cancel,
) -> isize {
    let args = [
        fd as usize,
        parts as usize,
        count as usize,
        offset as usize,
        // The upper half of the offset, for machines of 32 bits.
        0,
        flags.unwrap_or(0) as usize,
    ];
    let number = match flags {
        None => libc::SYS_pwritev,
        Some(_) => libc::SYS_pwritev2,
    };
    let position = match flags {
        Some(flags) if offset == -1 => Position::Current(flags),
        _ => Position::At(offset as u64, flags.unwrap_or(0)),
    };
    let description = captured_now(fd);
    // SAFETY: as in write.
    unsafe {
        if description == 0 {
            return uncaptured(cancel, number, args);
        }
        transfer(
            description,
            fd,
            number,
            args,
            parts,
            count as usize,
            position,
            cancel,
        )
    }
}

fn place_of(position: Position, view: View) -> Place {
    let (Position::Current(flags) | Position::At(_, flags)) = position;
    let appends = flags & RWF_APPEND != 0 || view.flags & APPEND != 0 && flags & RWF_NOAPPEND == 0;
    match position {
        Position::Current(_) if appends => Place::OffsetAtEnd,
        Position::Current(_) => Place::Offset,
        // Linux appends whatever the position says.
        Position::At(..) if appends => Place::End,
        Position::At(offset, _) => Place::At(offset),
    }
}

/// Makes a writing call on a captured descriptor.
///
/// # Safety
/// `parts` must be `count` parts of which the kernel reads as many bytes as it returns.
#[allow(clippy::too_many_arguments)]
#[inline]
unsafe fn transfer(
    description: u32,
    fd: c_int,
    number: c_long,
    args: Args,
    parts: *const iovec,
    count: usize,
    position: Position,
    cancel: Cancel,
) -> isize {
    // SAFETY: handed on to our caller.
    unsafe {
        let (Some(state), Some(view)) = (process::current(), descriptors::view(description)) else {
            return uncaptured(cancel, number, args);
        };
        let Some((name, group)) = files::get(view.name) else {
            return uncaptured(cancel, number, args);
        };
        let bytes = match number {
            libc::SYS_write | libc::SYS_pwrite64 => Bytes::UpTo(args[2]),
            _ => Bytes::Parts(parts, count),
        };
        let state = match policies::admit(state, || Some(group), bytes, cancel, Refusal::Possible) {
            Ok(state) => state,
            Err(refused) => return refused,
        };
        if cancel == Cancel::Point {
            cancellation::test();
        }
        let Some(ticket) = thread::enter(state) else {
            let result = kernel::call(number, args);
            if result > 0 {
                state.process.board.mark_gap(name.path);
            }
            return result;
        };
        let place = place_of(position, view);
        let before = Before::of(fd, place, view);
        let begin = ticket.lane.enter(&Target {
            device: name.device,
            inode: name.inode,
            offset: before.slot_offset,
            extent: UNKNOWN,
            group,
        });
        let result = kernel::call(number, args);
        if result > 0 {
            let written = result as u64;
            let range = before.range(fd, place, view, written);
            let end = clock::now();
            let appended = match range {
                Range::Exact(offset) => ticket.lane.append(
                    &state.process,
                    Some(&name),
                    &Operation {
                        kind: Kind::Write,
                        flags: 0,
                        begin,
                        end,
                        offset,
                        extent: written,
                    },
                    core::slice::from_raw_parts(parts, count),
                    result as usize,
                ),
                Range::Within(offset, extent) => ticket.lane.append(
                    &state.process,
                    Some(&name),
                    &Operation {
                        kind: Kind::Reread,
                        flags: 0,
                        begin,
                        end,
                        offset,
                        extent,
                    },
                    &[],
                    0,
                ),
            };
            if !appended {
                state.process.board.mark_gap(name.path);
            }
            descriptors::set_used(description, view);
        }
        ticket.lane.leave();
        ticket.done();
        result
    }
}

/// What was known before the call.
struct Before {
    /// For the in-flight slot: nothing before it is written.
    slot_offset: u64,
    /// The file offset or size, where it was asked for.
    position: Option<u64>,
}

/// What a call changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    /// As many bytes as were written, from there.
    Exact(u64),
    /// Something from there, in so many bytes.
    Within(u64, u64),
}

impl Before {
    /// Asks for what is needed to tell the position later. The file offset after the call tells it alone when nobody
    /// else can move it.
    #[inline(always)]
    fn of(fd: c_int, place: Place, view: View) -> Before {
        let position = match place {
            Place::At(offset) => {
                return Before {
                    slot_offset: offset,
                    position: None,
                };
            }
            Place::End => kernel::status(fd).map(|status| status.st_size as u64),
            Place::Offset | Place::OffsetAtEnd
                if view.is_shared || !cancellation::is_single_threaded() =>
            {
                kernel::position(fd)
            }
            Place::Offset | Place::OffsetAtEnd => None,
        };
        Before {
            slot_offset: 0,
            position,
        }
    }

    /// Where the call wrote.
    #[inline(always)]
    fn range(&self, fd: c_int, place: Place, view: View, written: u64) -> Range {
        const WHOLE: Range = Range::Within(0, UNKNOWN);
        let after = match place {
            Place::At(offset) => return Range::Exact(offset),
            Place::End => kernel::status(fd).map(|status| status.st_size as u64),
            Place::Offset | Place::OffsetAtEnd => kernel::position(fd),
        };
        let Some(after) = after else { return WHOLE };
        let Some(before) = self.position else {
            // Only this thread moves the offset.
            return after.checked_sub(written).map_or(WHOLE, Range::Exact);
        };
        // Appending never happens before the size that the file had when it was opened.
        let before = match place {
            Place::OffsetAtEnd => before.max(view.floor),
            _ => before,
        };
        if after.checked_sub(before) == Some(written) {
            return Range::Exact(before);
        }
        let from = match place {
            Place::Offset => before.min(after.saturating_sub(written)),
            _ => before,
        };
        match after.checked_sub(from) {
            Some(extent) if extent > 0 && after >= before => Range::Within(from, extent),
            _ => WHOLE,
        }
    }
}

/// Calls by which the kernel itself puts data into a file (`copy_file_range`, `sendfile`, `splice`, `fallocate`,
/// cloning): the bytes never pass by here, so the frame says what is to be read again. `offset` is where, or the file
/// offset; `extent` how much, or as much as the call returns.
///
/// # Safety
/// As [`kernel::call`].
#[inline]
pub(crate) unsafe fn kernel_fills(
    fd: c_int,
    offset: Option<u64>,
    extent: Option<u64>,
    number: c_long,
    args: Args,
    cancel: Cancel,
) -> isize {
    let description = captured(fd);
    // SAFETY: handed on to our caller.
    unsafe {
        let (Some(state), Some(view)) = (process::current(), descriptors::view(description)) else {
            return uncaptured(cancel, number, args);
        };
        let Some((name, group)) = files::get(view.name) else {
            return uncaptured(cancel, number, args);
        };
        let nothing = Bytes::UpTo(0);
        let state = match policies::admit(state, || Some(group), nothing, cancel, Refusal::Possible)
        {
            Ok(state) => state,
            Err(refused) => return refused,
        };
        if cancel == Cancel::Point {
            cancellation::test();
        }
        let Some(ticket) = thread::enter(state) else {
            let result = kernel::call(number, args);
            state.process.board.mark_gap(name.path);
            return result;
        };
        let begin = ticket.lane.enter(&Target {
            device: name.device,
            inode: name.inode,
            offset: offset.unwrap_or(0),
            extent: UNKNOWN,
            group,
        });
        let result = kernel::call(number, args);
        let extent = extent.unwrap_or(result.max(0) as u64);
        if !kernel::failed(result) && extent > 0 {
            let is_alone = !view.is_shared && cancellation::is_single_threaded();
            let offset = offset.or_else(|| {
                let after = kernel::position(fd).filter(|_| is_alone)?;
                after.checked_sub(extent)
            });
            let operation = Operation {
                begin,
                end: clock::now(),
                ..match offset {
                    Some(offset) => operation(Kind::Reread, offset, extent),
                    None => operation(Kind::Reread, 0, UNKNOWN),
                }
            };
            super::append(state, ticket.lane, &name, &operation, &[]);
            descriptors::set_used(description, view);
        }
        ticket.lane.leave();
        ticket.done();
        result
    }
}

/// `ftruncate`.
pub(crate) fn ftruncate(fd: c_int, size: i64) -> isize {
    let args = [fd as usize, size as usize, 0, 0, 0, 0];
    let description = captured(fd);
    // SAFETY: the call touches no memory.
    let call = || unsafe { kernel::call(libc::SYS_ftruncate, args) };
    let (Some(state), Some(view)) = (process::current(), descriptors::view(description)) else {
        return call();
    };
    let Some((name, group)) = files::get(view.name) else {
        return call();
    };
    let (group_of, nothing) = (|| Some(group), Bytes::UpTo(0));
    let admitted = policies::admit(state, group_of, nothing, Cancel::Never, Refusal::Possible);
    let state = match admitted {
        Ok(state) => state,
        Err(refused) => return refused,
    };
    let Some(ticket) = thread::enter(state) else {
        let result = call();
        state.process.board.mark_gap(name.path);
        return result;
    };
    let begin = ticket.lane.enter(&Target {
        device: name.device,
        inode: name.inode,
        offset: 0,
        extent: UNKNOWN,
        group,
    });
    let result = call();
    if result == 0 {
        let operation = Operation {
            begin,
            end: clock::now(),
            ..operation(Kind::Truncate, size as u64, 0)
        };
        super::append(state, ticket.lane, &name, &operation, &[]);
        descriptors::set_used(description, view);
    }
    ticket.lane.leave();
    ticket.done();
    result
}

/// `fsync` and `fdatasync`. The slot is published after the call only: nothing changes in it, and it may take long.
///
/// # Safety
/// `number` must be one of theirs.
pub(crate) unsafe fn sync(fd: c_int, number: c_long, cancel: Cancel) -> isize {
    let args = [fd as usize, 0, 0, 0, 0, 0];
    let begin = if descriptors::of(fd) == 0 {
        0
    } else {
        admit_telling(fd);
        clock::now()
    };
    // SAFETY: the call touches no memory.
    let result = unsafe { uncaptured(cancel, number, args) };
    if result == 0 && begin != 0 {
        let description = captured(fd);
        if let (Some(state), Some(view)) = (process::current(), descriptors::view(description)) {
            report(
                state,
                view.name,
                &operation(Kind::Sync, 0, 0),
                Some(begin),
                &[],
            );
            descriptors::set_used(description, view);
        }
    }
    result
}

/// Waits, where the file's group wants that, until it can be told what is about to happen with the file.
fn admit_telling(fd: c_int) {
    let view = descriptors::view(descriptors::of(fd));
    if let (Some(state), Some((_, group))) = (
        process::current(),
        view.and_then(|view| files::get(view.name)),
    ) {
        let (group_of, nothing) = (|| Some(group), Bytes::UpTo(0));
        // Never refused.
        let _ = policies::admit(state, group_of, nothing, Cancel::Never, Refusal::Impossible);
    }
}
