//! What belongs to the process: the lanes directory, the board, the rules, and noticing a fork.
//!
//! A page that the kernel wipes on fork holds a cookie. A child finds it zero and becomes a process of its own before
//! its first captured call. A `vfork` child shares the memory, cookie included: it borrows the parent.
//!
//! Somebody may remove the lanes directory, and a replicator may make another one, while the process runs. So it looks now
//! and then whether the board in the directory is the one it has joined, and joins the other one if not: as a new process,
//! as a child would be. What it did meanwhile is marked as gaps there. What was mapped stays mapped: others may be using it.

use crate::kernel;
use crate::scratch::{self, Scratch};
use crate::{arena, cancellation, capture, descriptors, files, joining, mappings, paths, thread};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use counterfoil_lane::board::{self, Board};
use counterfoil_lane::frame::Kind;
use counterfoil_lane::rules::Rules;
use counterfoil_lane::writer::{DIRECTORY_BYTES_MAX, Process};
use counterfoil_lane::{clock, segment, sys};
use libc::c_int;

const PAGE_BYTES: usize = 4096;
const BOARD_FILE: &[u8] = b"/board";
const RULES_FILE: &[u8] = b"/rules-";

/// How long a process goes on without looking for another board.
const LOOK_AFTER_NS: u64 = 1_000_000_000;

const COOKIE_WIPED: u64 = 0;
const COOKIE_RENEWING: u64 = 1;
const COOKIE_SET: u64 = 2;

/// This process, as its lanes see it.
pub(crate) struct State {
    /// What lanes need.
    pub(crate) process: Process,
    /// Grows with every fork on the way from the first process; lanes of another epoch are another process's.
    pub(crate) epoch: u64,
    /// Spare lanes were made, or are being made.
    has_reserved: AtomicBool,
}

impl State {
    /// True for the first who asks.
    pub(crate) fn begin_reserving(&self) -> bool {
        !self.has_reserved.swap(true, Ordering::Relaxed)
    }

    /// Whether the replicator understands frames of this kind.
    pub(crate) fn knows(&self, kind: Kind) -> bool {
        self.process.board.revision.load(Ordering::Relaxed) >= kind.revision()
    }
}

struct RulesView {
    bytes: &'static [u8],
}

static CURRENT: AtomicPtr<State> = AtomicPtr::new(core::ptr::null_mut());
static COOKIE: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());
static RULES: AtomicPtr<RulesView> = AtomicPtr::new(core::ptr::null_mut());
/// Number of the rules that were mapped, or tried.
static RULES_NUMBER: AtomicU64 = AtomicU64::new(0);
/// For [`look_at_rules`]: the board, once everything is ready.
static BOARD: AtomicPtr<Board> = AtomicPtr::new(core::ptr::null_mut());
/// [`Process::number`] of [`CURRENT`].
static NUMBER: AtomicU64 = AtomicU64::new(0);
/// Clock from which on the board is looked for.
static LOOK_AT: AtomicU64 = AtomicU64::new(u64::MAX);
/// Some thread is looking.
static LOOKING: AtomicBool = AtomicBool::new(false);
/// There is no board where there was one, or one that can't be joined.
static GONE: AtomicBool = AtomicBool::new(false);
/// Some group of the rules in force has a policy.
static POLICIES: AtomicBool = AtomicBool::new(false);
/// Device and inode of the root directory when the process started.
static ROOT: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Joins in when the environment or the system's configuration says so; otherwise every hook just makes its call.
pub(crate) fn start() {
    cancellation::start();
    crate::hooks::start_always();
    let mut buffer = [0; joining::DIRECTORY_BYTES];
    let Some(directory) = joining::directory(&mut buffer) else {
        return;
    };
    if join(directory).is_none() {
        return;
    }
    // SAFETY: the handlers are plain functions that may run at any time.
    unsafe { libc::pthread_atfork(Some(before_fork), None, Some(in_child)) };
    crate::patch::start();
    if let Some(state) = current() {
        state.process.mode.store(mode(), Ordering::Relaxed);
    }
    crate::hooks::start();
    look_at_rules();
}

fn join(directory: &[u8]) -> Option<()> {
    if directory.first() != Some(&b'/') || directory.len() > DIRECTORY_BYTES_MAX {
        return None;
    }
    let directory = arena::keep(directory)?;
    let board = scratch::with(|scratch| {
        let path = join_path(&mut scratch.text, &[directory])?;
        board::attach(path)
    })??;
    let cookie = sys::map_private(PAGE_BYTES);
    if cookie.is_null() {
        return None;
    }
    // SAFETY: the page is ours.
    if unsafe { sys::advise(cookie, PAGE_BYTES, libc::MADV_WIPEONFORK) } != 0 {
        return None;
    }
    if !thread::start() {
        return None;
    }
    let state = new_state(directory, board, 1)?;
    set_current(state);
    let cookie = cookie.cast::<AtomicU64>();
    // SAFETY: page-aligned, ours, mapped for ever.
    unsafe { (*cookie).store(COOKIE_SET, Ordering::Release) };
    COOKIE.store(cookie, Ordering::Release);
    BOARD.store(core::ptr::from_ref(board).cast_mut(), Ordering::Release);
    if let Ok((device, inode)) = sys::identity_at(b"/\0") {
        let [root_device, root_inode] = &ROOT;
        root_device.store(device, Ordering::Relaxed);
        root_inode.store(inode, Ordering::Relaxed);
    }
    LOOK_AT.store(
        clock::now().saturating_add(LOOK_AFTER_NS),
        Ordering::Relaxed,
    );
    Some(())
}

extern "C" fn before_fork() {
    descriptors::share_all();
}

/// The kernel has wiped the page already; an emulator may have promised to and not done it.
extern "C" fn in_child() {
    // SAFETY: mapped for ever when it isn't null.
    if let Some(cookie) = unsafe { COOKIE.load(Ordering::Acquire).as_ref() } {
        cookie.store(COOKIE_WIPED, Ordering::Release);
    }
    // What it has in memory it may change without any call.
    if mappings::any() {
        current();
    }
}

/// This process, or `None` when nothing is captured at all.
#[inline(always)]
pub(crate) fn current() -> Option<&'static State> {
    let cookie = COOKIE.load(Ordering::Acquire);
    // SAFETY: mapped for ever when it isn't null.
    let value = unsafe { cookie.as_ref() }?.load(Ordering::Relaxed);
    if value != COOKIE_SET && !renew() {
        return None;
    }
    // SAFETY: states live for ever.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

/// Becomes a process of its own after a fork. False while that is under way (a signal came in between) or when there
/// is no memory for it.
#[cold]
fn renew() -> bool {
    // SAFETY: both live for ever once they are set.
    let (cookie, old) = unsafe {
        match (
            COOKIE.load(Ordering::Acquire).as_ref(),
            CURRENT.load(Ordering::Acquire).as_ref(),
        ) {
            (Some(cookie), Some(old)) => (cookie, old),
            _ => return false,
        }
    };
    let begun = cookie.compare_exchange(
        COOKIE_WIPED,
        COOKIE_RENEWING,
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    if begun.is_err() {
        return cookie.load(Ordering::Acquire) == COOKIE_SET;
    }
    scratch::reset();
    thread::reset();
    descriptors::share_all();
    LOOKING.store(false, Ordering::Relaxed);
    let new = new_state(
        old.process.directory,
        old.process.board,
        old.epoch.wrapping_add(1),
    );
    match new {
        Some(new) => {
            set_current(new);
            cookie.store(COOKIE_SET, Ordering::Release);
            mappings::reset();
            // SAFETY: states live for ever.
            capture::memory::tell_all(unsafe { &*new });
            true
        }
        None => {
            cookie.store(COOKIE_WIPED, Ordering::Release);
            false
        }
    }
}

fn set_current(state: *mut State) {
    CURRENT.store(state, Ordering::Release);
    // SAFETY: states live for ever.
    NUMBER.store(unsafe { (*state).process.number }, Ordering::Release);
}

/// A captured call has ended; its lane is `lane_of`'s, and it began then.
#[inline(always)]
pub(crate) fn after_call(lane_of: u64, began: u64) {
    if lane_of != NUMBER.load(Ordering::Relaxed) || began >= LOOK_AT.load(Ordering::Relaxed) {
        after_call_of_note(lane_of);
    }
}

#[cold]
fn after_call_of_note(lane_of: u64) {
    // It told a lane that nobody may be reading any more. (In a fresh child, the parent's: that does no harm.)
    if lane_of != NUMBER.load(Ordering::Acquire)
        && let Some(state) = current()
    {
        mark_all(state.process.board);
    }
    look_for_board(clock::now());
}

/// Marks every file that this process speaks of.
fn mark_all(board: &Board) {
    files::each(|name| board.mark_gap(name.path));
}

/// Looks whether the directory has another board now, unless somebody did so a moment ago.
#[inline(always)]
pub(crate) fn look_for_board(now: u64) {
    let due = LOOK_AT.load(Ordering::Relaxed);
    if now >= due {
        let next = now.saturating_add(LOOK_AFTER_NS);
        let mine = LOOK_AT.compare_exchange(due, next, Ordering::AcqRel, Ordering::Relaxed);
        if mine.is_ok() {
            look_for_board_now();
        }
    }
}

/// Looks whether the directory has another board now, and joins it.
#[cold]
pub(crate) fn look_for_board_now() {
    let Some(state) = current().filter(|state| !is_borrowed(state)) else {
        return;
    };
    if LOOKING.swap(true, Ordering::AcqRel) {
        return;
    }
    if let Some(is_gone) = look(state) {
        GONE.store(is_gone, Ordering::Release);
    }
    LOOKING.store(false, Ordering::Release);
}

/// Whether the board is gone, where that can be told.
fn look(state: &'static State) -> Option<bool> {
    let directory = state.process.directory;
    let found = scratch::with(|scratch| {
        let path = join_path(&mut scratch.text, &[directory, BOARD_FILE])?;
        Some(sys::identity_at(path))
    })??;
    match found {
        Ok(identity) if identity == state.process.board.identity() => Some(false),
        Ok(_) => {
            let board = scratch::with(|scratch| {
                let path = join_path(&mut scratch.text, &[directory])?;
                board::attach(path)
            })?;
            // One that is of another layout is as good as none.
            let Some(board) = board else {
                return Some(true);
            };
            join_other(state, board).map(|()| false)
        }
        Err(error) if error == -(libc::ENOENT as isize) || error == -(libc::ENOTDIR as isize) => {
            // A program that changed its root can't see it any more, and its lanes are as good as ever.
            let [device, inode] = &ROOT;
            let root = (
                device.load(Ordering::Relaxed),
                inode.load(Ordering::Relaxed),
            );
            (sys::identity_at(b"/\0") == Ok(root)).then_some(true)
        }
        Err(_) => None,
    }
}

/// Becomes a process of that board.
fn join_other(old: &'static State, board: &'static Board) -> Option<()> {
    let new = new_state(old.process.directory, board, old.epoch.wrapping_add(1))?;
    thread::reset();
    old.process.board.succeed(board);
    BOARD.store(core::ptr::from_ref(board).cast_mut(), Ordering::Release);
    set_current(new);
    // SAFETY: states live for ever.
    capture::memory::tell_all(unsafe { &*new });
    // Calls under way end in lanes of the old one, and mark their gaps when they do.
    mark_all(board);
    // Rules are counted anew.
    RULES_NUMBER.store(0, Ordering::Release);
    look_at_rules();
    Some(())
}

/// Whether there is nobody to tell, as of the last look.
#[inline(always)]
pub(crate) fn is_gone() -> bool {
    GONE.load(Ordering::Relaxed)
}

/// Whether some group wants something else than that programs go on whatever happens.
#[inline(always)]
pub(crate) fn has_policies() -> bool {
    POLICIES.load(Ordering::Relaxed)
}

/// Whether we run in a `vfork` child: in the parent's memory, but with descriptors of our own.
pub(crate) fn is_borrowed(state: &State) -> bool {
    sys::process_id() != state.process.pid
}

/// The rules in force.
pub(crate) fn rules() -> Rules<'static> {
    // SAFETY: views and their bytes live for ever.
    unsafe { RULES.load(Ordering::Acquire).as_ref() }
        .and_then(|view| Rules::parse(view.bytes))
        .unwrap_or(Rules::NONE)
}

/// The board, or `None` when nothing is captured at all. Unlike [`current`] it costs a fresh child nothing.
#[inline(always)]
pub(crate) fn board() -> Option<&'static Board> {
    // SAFETY: mapped for ever when it isn't null.
    unsafe { BOARD.load(Ordering::Acquire).as_ref() }
}

/// Takes over new rules when the board announces some. True when that was so: descriptors may be captured now that
/// were not before.
#[inline(always)]
pub(crate) fn look_at_rules() -> bool {
    if let Some(board) = board() {
        let number = board.rules.load(Ordering::Acquire);
        if number != RULES_NUMBER.load(Ordering::Relaxed) {
            take_rules(number);
            return true;
        }
    }
    false
}

#[cold]
fn take_rules(number: u64) {
    let before = RULES_NUMBER.load(Ordering::Relaxed);
    let mine = RULES_NUMBER.compare_exchange(before, number, Ordering::AcqRel, Ordering::Relaxed);
    if before == number || mine.is_err() {
        return;
    }
    let Some(state) = current() else { return };
    let view = scratch::with(|scratch| map_rules(state, number, scratch)).flatten();
    if let Some(view) = view {
        RULES.store(view, Ordering::Release);
        POLICIES.store(rules().has_policies(), Ordering::Release);
        if !is_borrowed(state) {
            capture::opening::adopt_all(state, None);
        }
    }
}

fn map_rules(state: &State, number: u64, scratch: &mut Scratch) -> Option<*mut RulesView> {
    let mut digits = [0u8; 20];
    let digits = paths::decimal(number, &mut digits);
    let path = join_path(
        &mut scratch.text,
        &[state.process.directory, RULES_FILE, digits],
    )?;
    let fd = sys::open(path, libc::O_RDONLY | libc::O_NOFOLLOW, 0);
    let fd = c_int::try_from(fd).ok().filter(|&fd| fd >= 0)?;
    let len = usize::try_from(sys::file_size(fd)).unwrap_or(0);
    let mapping = if len == 0 {
        core::ptr::null_mut()
    } else {
        sys::map_shared(fd, len, false)
    };
    sys::close(fd);
    let view = arena::take(size_of::<RulesView>()).cast::<RulesView>();
    if mapping.is_null() || view.is_null() {
        return None;
    }
    // SAFETY: the mapping is that long and never unmapped; rules files never change once announced.
    let bytes: &'static [u8] = unsafe { core::slice::from_raw_parts(mapping, len) };
    Rules::parse(bytes)?;
    // SAFETY: fresh memory, aligned to 16.
    unsafe { view.write(RulesView { bytes }) };
    Some(view)
}

fn new_state(directory: &'static [u8], board: &'static Board, epoch: u64) -> Option<*mut State> {
    let memory = arena::take(size_of::<State>()).cast::<State>();
    if memory.is_null() {
        return None;
    }
    let pid = sys::process_id();
    let pid_started = started();
    // SAFETY: getuid has no arguments.
    let uid = unsafe { kernel::call(libc::SYS_getuid, [0; 6]) } as u32;
    let mut program = [0u8; 16];
    // SAFETY: the kernel writes 16 bytes.
    unsafe {
        kernel::call(
            libc::SYS_prctl,
            [
                libc::PR_GET_NAME as usize,
                program.as_mut_ptr() as usize,
                0,
                0,
                0,
                0,
            ],
        )
    };
    let seed = (u64::from(pid) << 32) ^ pid_started.rotate_left(17) ^ clock::now().rotate_left(8);
    let state = State {
        process: Process {
            directory,
            board,
            number: mix(mix(seed) ^ epoch).max(1),
            pid,
            uid,
            pid_started,
            pid_namespace: pid_namespace(),
            program,
            mode: AtomicU32::new(mode()),
            lanes: AtomicU32::new(0),
        },
        epoch,
        has_reserved: AtomicBool::new(false),
    };
    // SAFETY: fresh memory of that size, aligned to 16.
    unsafe { memory.write(state) };
    Some(memory)
}

/// How this process is captured, for its segments.
fn mode() -> u32 {
    if crate::patch::is_patched() {
        segment::MODE_PATCHED
    } else {
        0
    }
}

/// When the process started: field 22 of /proc/self/stat, 0 when that can't be read.
fn started() -> u64 {
    let fd = sys::open(b"/proc/self/stat\0", libc::O_RDONLY, 0);
    let Some(fd) = c_int::try_from(fd).ok().filter(|&fd| fd >= 0) else {
        return 0;
    };
    let mut buffer = [0u8; 512];
    let len = kernel::read(fd, &mut buffer);
    sys::close(fd);
    let text = usize::try_from(len)
        .ok()
        .and_then(|len| buffer.get(..len))
        .unwrap_or_default();
    // The second field is in parentheses and may hold anything, more parentheses too.
    let after = text.iter().rposition(|&byte| byte == b')').unwrap_or(0);
    let mut fields = text
        .get(after..)
        .unwrap_or_default()
        .split(|&byte| byte == b' ');
    let digits = fields.nth(20).unwrap_or_default();
    digits.iter().fold(0u64, |value, &digit| {
        value
            .wrapping_mul(10)
            .wrapping_add(u64::from(digit.wrapping_sub(b'0')))
    })
}

/// Inode of the process's id namespace, which its link in /proc names as `pid:[INODE]`; 0 when that can't be read.
fn pid_namespace() -> u64 {
    let mut buffer = [0u8; 64];
    let path = b"/proc/self/ns/pid\0";
    // SAFETY: the path ends with NUL, the buffer is as long as said.
    let len = unsafe {
        kernel::call(
            libc::SYS_readlinkat,
            [
                libc::AT_FDCWD as isize as usize,
                path.as_ptr() as usize,
                buffer.as_mut_ptr() as usize,
                buffer.len(),
                0,
                0,
            ],
        )
    };
    let text = usize::try_from(len)
        .ok()
        .and_then(|len| buffer.get(..len))
        .unwrap_or_default();
    text.iter()
        .filter(|byte| byte.is_ascii_digit())
        .fold(0u64, |value, &digit| {
            value
                .wrapping_mul(10)
                .wrapping_add(u64::from(digit.wrapping_sub(b'0')))
        })
}

/// splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Writes the parts and a NUL byte into `buffer`.
fn join_path<'a>(buffer: &'a mut [u8], parts: &[&[u8]]) -> Option<&'a [u8]> {
    let mut at = 0;
    for part in parts {
        buffer.get_mut(at..at + part.len())?.copy_from_slice(part);
        at += part.len();
    }
    *buffer.get_mut(at)? = 0;
    buffer.get(..at + 1)
}
