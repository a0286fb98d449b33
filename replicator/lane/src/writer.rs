//! The writing half of a lane: what runs in the captured program.
//!
//! A [`Lane`] is used by one thread at a time. It lives in memory of its own (not the program's heap) and maps its
//! segments for good; a segment that the sequencer has freed is used again before a new one is made.
//!
//! A forked child has a copy of the lane's own memory but not its segments: it makes lanes of its own. When a signal handler
//! forked in the middle of a call, the child goes on with that call, and with this copy.

use crate::board::Board;
use crate::frame::{self, DATA_BYTES_MAX, Kind, NameHeader, frame_bytes};
use crate::segment::{self, STATE_FREE, STATE_FULL, STATE_OPEN};
use crate::sync::{self, AtomicU32, Ordering};
use crate::{REVISION, VERSION, clock, sys};

/// Longest path of a lanes directory, in bytes.
pub const DIRECTORY_BYTES_MAX: usize = 3500;
/// Names a process can have in use at once; a file beyond that is marked as a gap.
pub const NAMES_MAX: usize = if cfg!(schedules) { 16 } else { 1 << 16 };

const SEGMENTS_MAX: usize = 256;
/// A lane's first segment: most processes and threads write little.
pub(crate) const SEGMENT_BYTES_MIN: usize = if MODEL { MODEL_BYTES } else { 80 * 1024 };
const SECOND_SEGMENT_BYTES: usize = if MODEL { MODEL_BYTES } else { 256 * 1024 };
const SEGMENT_BYTES: usize = if MODEL { MODEL_BYTES } else { 1024 * 1024 };
/// A model of schedules has segments for a name and two short frames.
const MODEL: bool = cfg!(schedules);
const MODEL_BYTES: usize = segment::HEADER_BYTES + 80 + 2 * frame_bytes(8);
/// Lanes of a process from this number on have no segments longer than the second.
const CROWD_LANES: u32 = 64;
/// The two of a lane that is made for later.
const SPARE_SEGMENT_BYTES: usize = 96 * 1024;
/// What a lane is provided with that will not be able to make segments.
const PROVIDED_SEGMENT_BYTES: usize = 448 * 1024;
const FILE_NAME_BYTES_MAX: usize = 64;

/// Bytes of the frame that announces the longest name.
const NAME_FRAME_BYTES_MAX: usize = frame_bytes(size_of::<NameHeader>() + 4096);

/// What [`segment::Header::release`] says.
const RELEASE: [u8; 16] = {
    let text = env!("CARGO_PKG_VERSION").as_bytes();
    let mut release = [0; 16];
    let mut at = 0;
    while at < text.len() && at < release.len() {
        release[at] = text[at];
        at += 1;
    }
    release
};

const _: () = assert!(
    MODEL
        || SEGMENT_BYTES_MIN - segment::HEADER_BYTES
            >= frame_bytes(DATA_BYTES_MAX) + frame_bytes(8192),
    "the longest frame and the name before it fit in every segment"
);

/// What all lanes of a process share.
pub struct Process {
    /// Absolute path of the lanes directory.
    pub directory: &'static [u8],
    /// The board in it.
    pub board: &'static Board,
    /// A number no other process has; also not a forked child.
    pub number: u64,
    /// Process id.
    pub pid: u32,
    /// Real user id.
    pub uid: u32,
    /// Field 22 of /proc/PID/stat.
    pub pid_started: u64,
    /// Inode of the process's id namespace, 0 when not known.
    pub pid_namespace: u64,
    /// Name of the program, NUL-padded.
    pub program: [u8; 16],
    /// `MODE_` flags of [`segment`].
    pub mode: AtomicU32,
    /// How many lanes were made.
    pub lanes: AtomicU32,
}

/// A captured file, as a process names it in its frames.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// Number in the process, from 1, below [`NAMES_MAX`].
    pub number: u32,
    /// Grows when the number is used for another file.
    pub generation: u32,
    /// Device of the file.
    pub device: u64,
    /// Inode of the file.
    pub inode: u64,
    /// Absolute path when it was opened, at most 4096 bytes.
    pub path: &'a [u8],
}

/// What a frame says besides its data.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// What was done.
    pub kind: Kind,
    /// Flags of that kind.
    pub flags: u16,
    /// Clock before the call.
    pub begin: u64,
    /// Clock after the call.
    pub end: u64,
    /// Where in the file.
    pub offset: u64,
    /// How many bytes are concerned.
    pub extent: u64,
}

/// The range of a file that a call is about to change.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Device of the file, 0 when not known before the call.
    pub device: u64,
    /// Inode of the file, 0 when not known before the call.
    pub inode: u64,
    /// Where, `u64::MAX` when not known before the call.
    pub offset: u64,
    /// How many bytes, `u64::MAX` for all that follow.
    pub extent: u64,
    /// The file's consistency group.
    pub group: u16,
}

/// Why a lane has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The lane, or all lanes together, are as long as they may get, and the sequencer has not freed enough yet.
    Backlog,
    /// So much will never fit.
    TooLong,
    /// No segment can be made: the lanes directory is gone or is another one now, there is no space, no permission.
    Unavailable,
}

/// A thread's lane.
pub struct Lane {
    /// [`Process::number`] of the process that it was made for.
    process: u64,
    /// Clock when [`Lane::enter`] was last called.
    entered: u64,
    /// The current segment was given up before the next one was found.
    retired: bool,
    /// Nobody reads it: see [`Lane::disown`].
    disowned: bool,
    number: u32,
    segments: usize,
    bytes: usize,
    current: usize,
    tail: usize,
    capacity: usize,
    next_frame: u64,
    sequence: u64,
    mapped: [*mut segment::Header; SEGMENTS_MAX],
    lengths: [u32; SEGMENTS_MAX],
    announced: [u64; NAMES_MAX],
}

impl Lane {
    /// Makes a lane with its first segment.
    ///
    /// # Errors
    /// That is impossible: no memory, no space, no permission, no such directory any more, or too many lanes.
    pub fn create(process: &Process) -> Result<&'static mut Lane, Shortage> {
        Lane::make(process, |lane| lane.add_segment(process).map(|_| ()))
    }

    /// Makes a lane for later, of two small segments, as none can be added then.
    ///
    /// # Errors
    /// As for [`Lane::create`].
    pub fn create_spare(process: &Process) -> Result<&'static mut Lane, Shortage> {
        Lane::make(process, |lane| {
            lane.make_segment(process, SPARE_SEGMENT_BYTES)?;
            lane.make_segment(process, SPARE_SEGMENT_BYTES).map(|_| ())
        })
    }

    fn make(
        process: &Process,
        add_segments: impl FnOnce(&mut Lane) -> Result<(), Shortage>,
    ) -> Result<&'static mut Lane, Shortage> {
        let memory = sys::map_private(size_of::<Lane>());
        if memory.is_null() {
            return Err(Shortage::Unavailable);
        }
        // SAFETY: the memory is fresh, large and aligned enough; zero bytes are a valid Lane.
        let lane = unsafe { &mut *memory.cast::<Lane>() };
        lane.process = process.number;
        lane.number = process.lanes.fetch_add(1, Ordering::Relaxed);
        lane.next_frame = 1;
        if let Err(shortage) = add_segments(lane)
            && lane.segments == 0
        {
            // SAFETY: nobody else knows of this memory.
            unsafe { sys::unmap(memory, size_of::<Lane>()) };
            return Err(shortage);
        }
        lane.start_segment(0);
        Ok(lane)
    }

    /// [`Process::number`] of the process that it was made for.
    #[inline(always)]
    pub fn process(&self) -> u64 {
        self.process
    }

    /// For a forked child, in which calls go on that a signal handler interrupted in its parent: what they still write goes
    /// nowhere, and no frame fits any more, so the caller marks a gap. The parent tells of its call; that the child didn't
    /// make the call as well can't be known.
    ///
    /// # Safety
    /// No segment may be mapped, as in a child of a process that made the lane: nothing is read or written before.
    pub unsafe fn disown(&mut self) {
        if self.disowned {
            return;
        }
        self.disowned = true;
        self.capacity = 0;
        for (&segment, &len) in self.mapped.iter().zip(&self.lengths).take(self.segments) {
            sys::fill_hole(segment.cast(), len as usize);
        }
    }

    /// Whether [`Lane::disown`] was called.
    pub fn is_disowned(&self) -> bool {
        self.disowned
    }

    /// Bytes left in the current segment.
    #[inline(always)]
    fn room(&self) -> usize {
        // In a disowned lane there may be less than nothing.
        self.capacity.saturating_sub(self.tail)
    }

    /// Clock when [`Lane::enter`] was last called.
    #[inline(always)]
    pub fn entered(&self) -> u64 {
        self.entered
    }

    /// Whether the frame of a call with so many bytes of data fits for certain; where not, [`Lane::reserve`] knows.
    #[inline(always)]
    pub fn has_room(&self, len: usize) -> bool {
        len <= DATA_BYTES_MAX && self.room() >= frame_bytes(len) + NAME_FRAME_BYTES_MAX
    }

    /// Makes sure that [`Lane::append`] will find room for the frames of one call with so many bytes of data, by making
    /// further segments where that is needed.
    ///
    /// # Errors
    /// Why there is no room. When that is [`Shortage::Backlog`], there will be as soon as the sequencer has freed segments,
    /// if [`Lane::retire`] was called.
    #[cold]
    pub fn reserve(&mut self, process: &Process, len: usize) -> Result<(), Shortage> {
        if self.disowned {
            return Ok(());
        }
        let frames = len.div_ceil(DATA_BYTES_MAX).max(1);
        if frames > self.frames_max(process) {
            return Err(Shortage::TooLong);
        }
        let mut rest = self.room().saturating_sub(NAME_FRAME_BYTES_MAX);
        let mut next = 0;
        let mut done = 0;
        for _ in 0..frames {
            let take = (len - done).min(DATA_BYTES_MAX);
            if rest < frame_bytes(take) {
                let index = match self.free_segment(next) {
                    Some(index) => index,
                    None => self.add_segment(process)?,
                };
                next = index + 1;
                // SAFETY: mapped for good.
                let capacity = unsafe { (*self.mapped[index]).capacity } as usize;
                rest = capacity - NAME_FRAME_BYTES_MAX;
            }
            rest -= frame_bytes(take);
            done += take;
        }
        Ok(())
    }

    /// How many of the longest frames all segments together can hold, as many as there may be.
    fn frames_max(&self, process: &Process) -> usize {
        let in_one =
            |capacity: usize| (capacity - NAME_FRAME_BYTES_MAX) / frame_bytes(DATA_BYTES_MAX);
        // SAFETY: mapped for good.
        let have = self.mapped[..self.segments]
            .iter()
            .map(|&segment| in_one(unsafe { (*segment).capacity } as usize));
        let bytes_max = process.board.lane_bytes_max.load(Ordering::Relaxed) as usize;
        let size = self.next_segment_bytes(process);
        let more = (bytes_max.saturating_sub(self.bytes) / size).min(SEGMENTS_MAX - self.segments);
        have.sum::<usize>() + more * in_one(size - segment::HEADER_BYTES)
    }

    /// Gives the current segment up, so that the sequencer frees it too; the next frame takes the first that is free.
    pub fn retire(&mut self) {
        if !self.retired && self.tail > 0 {
            self.retired = true;
            self.tail = self.capacity;
            // SAFETY: mapped for good.
            unsafe {
                (*self.mapped[self.current])
                    .state
                    .store(STATE_FULL, Ordering::Release);
            }
        }
    }

    /// Tells the replicator that the thread waits for room since then, and is still there; 0 when it goes on.
    pub fn tell_waiting(&self, since: u64) {
        let waiting = &self.home().waiting.0;
        waiting.at.store(clock::now(), Ordering::Release);
        waiting.since.store(since, Ordering::Release);
    }

    /// Publishes that the thread is about to make a call. Returns the clock before it.
    #[inline(always)]
    pub fn enter(&mut self, target: &Target) -> u64 {
        self.prefetch();
        let slot = &self.home().slot.0;
        // Whoever sees any of this sees that the call before is over.
        sync::fence(Ordering::Release);
        slot.device.store(target.device, Ordering::Relaxed);
        slot.inode.store(target.inode, Ordering::Relaxed);
        slot.offset.store(target.offset, Ordering::Relaxed);
        slot.extent.store(target.extent, Ordering::Relaxed);
        slot.group.store(u64::from(target.group), Ordering::Relaxed);
        let begin = clock::now();
        // The slot is visible before the call's effect and its end time.
        sync::publish(&slot.begin, begin);
        self.entered = begin;
        begin
    }

    /// Asks for the cache lines that the next frame will be written to. The sequencer has read them when the segment was
    /// used before, so they are another core's; fetching them takes as long as a tenth of the call, and goes on during it.
    #[inline(always)]
    fn prefetch(&self) {
        /// Enough for a frame of a hundred bytes or two; more goes in sequence, which the processor sees by itself.
        const LINES: usize = 4;
        // SAFETY: prefetching reads and writes nothing, at whatever address; `current` is mapped.
        unsafe {
            let segment = self.mapped[self.current];
            let at = segment
                .cast::<u8>()
                .wrapping_add(segment::HEADER_BYTES + self.tail);
            for line in 0..LINES {
                prefetch_for_write(at.wrapping_add(64 * line));
            }
            prefetch_for_write((&raw const (*segment).tail).cast());
        }
    }

    /// Withdraws what [`Lane::enter`] published, after the frame is appended (or the call failed).
    #[inline(always)]
    pub fn leave(&mut self) {
        self.home().slot.0.begin.store(0, Ordering::Release);
    }

    /// Appends an operation. `parts` are where its data lies, of which the first `len` bytes count. False when
    /// there is no room: the caller marks a gap.
    ///
    /// # Safety
    /// `parts` must be readable for `len` bytes in all.
    #[inline]
    pub unsafe fn append(
        &mut self,
        process: &Process,
        name: Option<&Name<'_>>,
        operation: &Operation,
        parts: &[libc::iovec],
        len: usize,
    ) -> bool {
        if operation.kind.revision() > process.board.revision.load(Ordering::Relaxed) {
            return self.append_older(process, name, operation);
        }
        let mut cursor = Cursor {
            parts,
            part: 0,
            at: 0,
        };
        let mut done = 0;
        loop {
            let take = (len - done).min(DATA_BYTES_MAX);
            if !self.make_room(process, name, take) {
                return false;
            }
            let mut header = self.header_of(name, operation, take);
            if operation.kind == Kind::Write {
                header.offset += done as u64;
                header.extent = take as u64;
                if done > 0 {
                    header.flags |= frame::WRITE_CONTINUED;
                }
            }
            // SAFETY: make_room made sure that the frame fits; the caller vouches for the parts.
            unsafe { self.put(&header, |to| cursor.copy(to, take)) };
            done += take;
            if done >= len {
                return true;
            }
        }
    }

    /// Says as much of an operation as a replicator understands that is older than its kind.
    #[cold]
    fn append_older(
        &mut self,
        process: &Process,
        name: Option<&Name<'_>>,
        operation: &Operation,
    ) -> bool {
        match operation.kind {
            Kind::Map | Kind::Unmap => {
                let operation = Operation {
                    kind: Kind::Reread,
                    flags: 0,
                    ..*operation
                };
                // SAFETY: no bytes are read.
                unsafe { self.append(process, name, &operation, &[], 0) }
            }
            // It never looked at these.
            _ => true,
        }
    }

    fn home(&self) -> &segment::Header {
        // SAFETY: a lane has at least one segment, mapped for good.
        unsafe { &*self.mapped[0] }
    }

    fn header_of(
        &mut self,
        name: Option<&Name<'_>>,
        operation: &Operation,
        data_len: usize,
    ) -> frame::Header {
        frame::Header {
            len: frame_bytes(data_len) as u32,
            kind: operation.kind as u16,
            flags: operation.flags,
            name: name.map_or(0, |name| name.number),
            data_len: data_len as u32,
            number: 0,
            begin: operation.begin,
            end: operation.end,
            offset: operation.offset,
            extent: operation.extent,
        }
    }

    /// Makes sure that a frame with `data_len` bytes fits and that its name is announced in the segment.
    #[inline(always)]
    fn make_room(&mut self, process: &Process, name: Option<&Name<'_>>, data_len: usize) -> bool {
        let needed = frame_bytes(data_len);
        if let Some(name) = name {
            let index = name.number as usize % NAMES_MAX;
            if self.announced[index] == self.announcement(name) {
                return self.room() >= needed || self.roll(process) && self.announce(name);
            }
            let with_name = needed + frame_bytes(size_of::<NameHeader>() + name.path.len());
            return (self.room() >= with_name || self.roll(process)) && self.announce(name);
        }
        self.room() >= needed || self.roll(process)
    }

    fn announcement(&self, name: &Name<'_>) -> u64 {
        (self.sequence << 32) | u64::from(name.generation)
    }

    #[cold]
    fn announce(&mut self, name: &Name<'_>) -> bool {
        let header = NameHeader {
            device: name.device,
            inode: name.inode,
        };
        let data_len = size_of::<NameHeader>() + name.path.len();
        if self.room() < frame_bytes(data_len) {
            return false;
        }
        let now = clock::now();
        let operation = Operation {
            kind: Kind::Name,
            flags: 0,
            begin: now,
            end: now,
            offset: 0,
            extent: 0,
        };
        let frame = self.header_of(Some(name), &operation, data_len);
        // SAFETY: it fits; NameHeader has no padding.
        unsafe {
            self.put(&frame, |to| {
                core::ptr::copy_nonoverlapping(
                    (&raw const header).cast::<u8>(),
                    to,
                    size_of::<NameHeader>(),
                );
                core::ptr::copy_nonoverlapping(
                    name.path.as_ptr(),
                    to.add(size_of::<NameHeader>()),
                    name.path.len(),
                );
            });
        }
        self.announced[name.number as usize % NAMES_MAX] = self.announcement(name);
        true
    }

    /// Writes a frame and publishes it.
    ///
    /// # Safety
    /// The frame must fit, and `fill` must write its data and no more.
    #[inline(always)]
    unsafe fn put(&mut self, header: &frame::Header, fill: impl FnOnce(*mut u8)) {
        let segment = self.mapped[self.current];
        let mut header = *header;
        header.number = self.next_frame;
        // SAFETY: `current` is mapped, and the frame lies within its capacity.
        unsafe {
            let to = segment.cast::<u8>().add(segment::HEADER_BYTES + self.tail);
            sync::writes(to, header.len as usize);
            to.cast::<frame::Header>().write(header);
            fill(to.add(frame::HEADER_BYTES));
            self.next_frame += 1;
            self.tail += header.len as usize;
            (*segment).tail.0.store(self.tail as u64, Ordering::Release);
        }
    }

    /// Goes on in a free segment, or a new one.
    #[cold]
    fn roll(&mut self, process: &Process) -> bool {
        if self.disowned {
            return false;
        }
        let before = self.mapped[self.current];
        let was_retired = self.retired;
        let index = match self.free_segment(0) {
            Some(index) => index,
            None => match self.add_segment(process) {
                Ok(index) => index,
                Err(_) => {
                    // Where there is no other, none would ever become free.
                    if self.segments == 1 {
                        self.retire();
                    }
                    return false;
                }
            },
        };
        self.start_segment(index);
        if !was_retired {
            // SAFETY: mapped for good. Only now, so that a reader who sees "full" finds the next one.
            unsafe { (*before).state.store(STATE_FULL, Ordering::Release) };
        }
        true
    }

    /// A segment from this index on that the sequencer has freed, or that was never used.
    fn free_segment(&self, from: usize) -> Option<usize> {
        (from..self.segments).find(|&index| {
            // SAFETY: mapped for good.
            unsafe { (*self.mapped[index]).state.load(Ordering::Acquire) == STATE_FREE }
        })
    }

    fn start_segment(&mut self, index: usize) {
        self.current = index;
        self.retired = false;
        self.tail = 0;
        self.sequence += 1;
        // SAFETY: mapped for good; nobody reads a free segment.
        let header = unsafe { &*self.mapped[index] };
        self.capacity = header.capacity as usize;
        header.tail.0.store(0, Ordering::Relaxed);
        header.consumed.0.store(0, Ordering::Relaxed);
        header.sequence.store(self.sequence, Ordering::Release);
        header.state.store(STATE_OPEN, Ordering::Release);
    }

    /// Makes a further segment for later, unless there is a free one: for a lane that will soon not be able to.
    pub fn provide(&mut self, process: &Process) {
        if self.free_segment(0).is_none() {
            // Without it the lane is as it was.
            let _ = self.make_segment(process, PROVIDED_SEGMENT_BYTES);
        }
    }

    /// Makes and maps a further segment file, free to be used, and gives its index.
    fn add_segment(&mut self, process: &Process) -> Result<usize, Shortage> {
        self.make_segment(process, self.next_segment_bytes(process))
    }

    fn next_segment_bytes(&self, process: &Process) -> usize {
        let bytes_max = process.board.lane_bytes_max.load(Ordering::Relaxed) as usize;
        match self.segments {
            // There will be no second one.
            0 if bytes_max < SEGMENT_BYTES_MIN + SECOND_SEGMENT_BYTES
                && self.number < CROWD_LANES =>
            {
                SECOND_SEGMENT_BYTES
            }
            0 => SEGMENT_BYTES_MIN,
            1 => SECOND_SEGMENT_BYTES,
            _ if self.number >= CROWD_LANES => SECOND_SEGMENT_BYTES,
            _ => SEGMENT_BYTES,
        }
    }

    fn make_segment(&mut self, process: &Process, size: usize) -> Result<usize, Shortage> {
        let held = sys::hold_signals();
        let made = if self.disowned {
            Err(Shortage::Unavailable)
        } else {
            self.make_granted_segment(process, size)
        };
        held.release();
        made
    }

    fn make_granted_segment(&mut self, process: &Process, size: usize) -> Result<usize, Shortage> {
        let bytes_max = process.board.lane_bytes_max.load(Ordering::Relaxed) as usize;
        if self.segments == SEGMENTS_MAX || (self.segments > 0 && self.bytes + size > bytes_max) {
            return Err(Shortage::Backlog);
        }
        if !process.board.take_lane_bytes(size as u64) {
            return Err(Shortage::Backlog);
        }
        let made = self.make_segment_file(process, size);
        if made.is_err() {
            process.board.give_lane_bytes(size as u64);
        }
        made
    }

    fn make_segment_file(&mut self, process: &Process, size: usize) -> Result<usize, Shortage> {
        // Making a file longer than the program's own limit would send it SIGXFSZ.
        if sys::file_size_limit() < size as u64 {
            return Err(Shortage::Unavailable);
        }
        let mut path = [0u8; DIRECTORY_BYTES_MAX + FILE_NAME_BYTES_MAX];
        // In a directory that is another one now, nobody would know whose segment it is.
        if sys::identity_at(board_path(&mut path, process)) != Ok(process.board.identity()) {
            return Err(Shortage::Unavailable);
        }
        let path = segment_path(&mut path, process, self.number, self.segments as u32);
        let fd = sys::open(
            path,
            libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW,
            0o600,
        );
        if fd < 0 {
            return Err(Shortage::Unavailable);
        }
        let fd = fd as i32;
        let mapping = if sys::allocate(fd, size as u64) == 0 {
            sys::map_shared(fd, size, true)
        } else {
            core::ptr::null_mut()
        };
        sys::close(fd);
        if mapping.is_null() {
            sys::unlink(path);
            return Err(Shortage::Unavailable);
        }
        // SAFETY: as above: a child makes lanes of its own, and must not be able to write to this one.
        unsafe { sys::advise(mapping, size, libc::MADV_DONTFORK) };
        let header = mapping.cast::<segment::Header>();
        // SAFETY: the mapping is fresh and long enough for the header; the magic comes last, so that a reader never
        // takes a half-made header for a whole one.
        unsafe {
            sync::writes((&raw const (*header).version).cast(), 1);
            (*header).version = VERSION;
            (*header).index = self.segments as u32;
            (*header).process = process.number;
            (*header).lane = self.number;
            (*header).pid = process.pid;
            (*header).tid = sys::thread_id();
            (*header).uid = process.uid;
            (*header).pid_started = process.pid_started;
            (*header).pid_namespace = process.pid_namespace;
            (*header).capacity = (size - segment::HEADER_BYTES) as u64;
            (*header).program = process.program;
            (*header).revision = REVISION;
            (*header).mode = process.mode.load(Ordering::Relaxed);
            (*header).release = RELEASE;
        }
        let index = self.segments;
        self.mapped[index] = header;
        self.lengths[index] = size as u32;
        // SAFETY: as above.
        unsafe {
            (*header).state.store(STATE_FREE, Ordering::Relaxed);
            (*header).magic.store(segment::MAGIC, Ordering::Release);
        }
        self.segments += 1;
        self.bytes += size;
        process.board.births.fetch_add(1, Ordering::SeqCst);
        Ok(index)
    }
}

/// Asks for a cache line to be fetched for writing.
///
/// # Safety
/// None is needed: the address need not be mapped.
#[inline(always)]
unsafe fn prefetch_for_write(address: *const u8) {
    // SAFETY: a hint, which changes no register and no memory.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = address;
    }
}

/// Where copying from an iovec array stands.
struct Cursor<'a> {
    parts: &'a [libc::iovec],
    part: usize,
    at: usize,
}

impl Cursor<'_> {
    /// Copies the next `len` bytes.
    ///
    /// # Safety (of the caller's promises)
    /// The parts hold that many more bytes, and `to` has room for them.
    #[inline(always)]
    fn copy(&mut self, to: *mut u8, len: usize) {
        let mut done = 0;
        while done < len && self.part < self.parts.len() {
            let part = &self.parts[self.part];
            let take = (part.iov_len - self.at).min(len - done);
            // SAFETY: see above.
            unsafe {
                core::ptr::copy_nonoverlapping(
                    part.iov_base.cast::<u8>().add(self.at),
                    to.add(done),
                    take,
                );
            }
            done += take;
            self.at += take;
            if self.at == part.iov_len {
                self.part += 1;
                self.at = 0;
            }
        }
    }
}

/// Writes `DIRECTORY/board` and a NUL byte into `buffer`.
fn board_path<'a>(buffer: &'a mut [u8], process: &Process) -> &'a [u8] {
    const NAME: &[u8] = b"/board\0";
    let directory = &process.directory[..process.directory.len().min(DIRECTORY_BYTES_MAX)];
    let end = directory.len() + NAME.len();
    buffer[..directory.len()].copy_from_slice(directory);
    buffer[directory.len()..end].copy_from_slice(NAME);
    &buffer[..end]
}

/// Writes `DIRECTORY/PROCESS.LANE.INDEX.lane` and a NUL byte into `buffer`.
fn segment_path<'a>(buffer: &'a mut [u8], process: &Process, lane: u32, index: u32) -> &'a [u8] {
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        buffer[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&process.directory[..process.directory.len().min(DIRECTORY_BYTES_MAX)]);
    put(b"/");
    let mut digits = [0u8; 16];
    put(hexadecimal(process.number, &mut digits));
    put(b".");
    put(hexadecimal(u64::from(lane), &mut digits));
    put(b".");
    put(hexadecimal(u64::from(index), &mut digits));
    put(b".lane\0");
    &buffer[..at]
}

fn hexadecimal(value: u64, digits: &mut [u8; 16]) -> &[u8] {
    for (index, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (60 - 4 * index)) as usize & 15];
    }
    let zeros = (value.leading_zeros() as usize / 4).min(15);
    &digits[zeros..]
}
