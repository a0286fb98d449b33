//! What stands for atomics, the clock and shared memory under a model checker of schedules (loom).
//!
//! Lanes lie in memory that is mapped, so an atomic here is where it always is, and the checker's own is found by that address:
//! one for each address, made before any thread starts, with a value that counts from what the memory held at first.
//! Both ends map a file at the same address, as only then is it the same memory for the checker. Bytes that are in no atomic
//! are cells of eight bytes each: the checker fails when one may be read while it is written.
//!
//! The clock is a cell that grows whenever it is read and orders nothing by itself: it is read as memory is that another
//! processor keeps writing to, which is what x86-64 and the kernel's barriers for aarch64 promise. A sequentially consistent
//! access counts as one that acquires and releases: that much, and no relation to the clock, is promised by all processors.
//! What orders accesses and the clock are fences.

use core::sync::atomic::Ordering;
use loom::sync::atomic as loomed;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Atomics, and cells of eight bytes, that a run may use.
const ATOMICS: usize = 80;
const CELLS: usize = 224;
const CELL_BYTES: usize = 8;

/// What a run of the model has touched so far.
struct World {
    clock: Rc<loomed::AtomicU64>,
    time: u64,
    atomics: Vec<Rc<loomed::AtomicU64>>,
    bound: HashMap<usize, (Rc<loomed::AtomicU64>, u64)>,
    cells: Vec<Rc<loom::cell::UnsafeCell<()>>>,
    bound_cells: HashMap<usize, Rc<loom::cell::UnsafeCell<()>>>,
    /// Files that are mapped: address and length by identity.
    files: HashMap<(u64, u64), (usize, usize)>,
    /// Private memory.
    private: Vec<(usize, usize)>,
    history: Vec<(loom::thread::ThreadId, Access, usize, u64)>,
    /// After how many steps a thread dies.
    deaths: HashMap<loom::thread::ThreadId, usize>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    static WEAKNESS: Cell<Option<Weakness>> = const { Cell::new(None) };
}

/// A mistake in the protocol, for tests that see the checker find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// Stores to what is at this offset of a segment's header release nothing, and no barrier follows.
    Stores(usize),
    /// Loads from there acquire nothing.
    Loads(usize),
    /// Fences do nothing.
    Fences,
}

/// What was done to an atomic.
#[derive(Clone, Copy, Debug)]
enum Access {
    Load,
    Store,
}

/// A thread of the model died.
#[derive(Debug)]
pub struct Died;

/// Begins a run; the model calls this first.
pub fn begin() {
    end();
    let world = World {
        clock: Rc::new(loomed::AtomicU64::new(0)),
        time: 0,
        atomics: (0..ATOMICS)
            .map(|_| Rc::new(loomed::AtomicU64::new(0)))
            .collect(),
        bound: HashMap::new(),
        cells: (0..CELLS)
            .map(|_| Rc::new(loom::cell::UnsafeCell::new(())))
            .collect(),
        bound_cells: HashMap::new(),
        files: HashMap::new(),
        private: Vec::new(),
        history: Vec::new(),
        deaths: HashMap::new(),
    };
    WORLD.set(Some(world));
}

/// Gives back what the last run mapped.
pub fn end() {
    if let Some(world) = WORLD.take() {
        for (address, len) in world.files.into_values().chain(world.private) {
            // SAFETY: the run is over, and nothing of it is used any more.
            unsafe { crate::sys::unmap_now(address as *mut u8, len) };
        }
    }
}

/// Makes the protocol wrong in runs from now on.
pub fn weaken(weakness: Option<Weakness>) {
    WEAKNESS.set(weakness);
}

/// Runs `life`, which dies before its n-th access of anything shared. True when it got to its end.
pub fn mortal(steps: usize, life: impl FnOnce()) -> bool {
    with(|world| world.deaths.insert(loom::thread::current().id(), steps));
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(life));
    with(|world| world.deaths.remove(&loom::thread::current().id()));
    match lived {
        Ok(()) => true,
        Err(payload) if payload.is::<Died>() => false,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

fn with<T>(then: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| then(world.as_mut().expect("a run has begun")))
}

/// The thread makes one more step, or dies before it.
pub fn step() {
    let dies = with(|world| {
        if world.deaths.is_empty() {
            return false;
        }
        match world.deaths.get_mut(&loom::thread::current().id()) {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    });
    if dies {
        std::panic::resume_unwind(Box::new(Died));
    }
}

/// Clock: see the head of this file.
pub fn now() -> u64 {
    step();
    let clock = with(|world| Rc::clone(&world.clock));
    // Only so that the checker tries who reads it first. Nobody loads it, so it carries nothing from thread to thread.
    clock.store(0, Ordering::Relaxed);
    with(|world| {
        world.time += 1;
        world.time
    })
}

/// Maps a file, or says where it is mapped already.
pub fn map_file(identity: Option<(u64, u64)>, len: usize, map: impl Fn() -> *mut u8) -> *mut u8 {
    let Some(identity) = identity else {
        return core::ptr::null_mut();
    };
    with(|world| match world.files.get(&identity) {
        Some(&(address, _)) => address as *mut u8,
        None => {
            let address = map();
            if !address.is_null() {
                world.files.insert(identity, (address as usize, len));
            }
            address
        }
    })
}

/// Notes private memory, which is kept until the run's end.
pub fn map_private(address: *mut u8, len: usize) -> *mut u8 {
    with(|world| world.private.push((address as usize, len)));
    address
}

/// Whether an access to this address is to be wrong.
fn is_weak(address: usize, weakness: impl Fn(usize) -> Weakness) -> bool {
    let Some(wrong) = WEAKNESS.get() else {
        return false;
    };
    with(|world| {
        let mut segments = world.files.values().filter(|(_, len)| *len < 1 << 20);
        segments.any(|&(start, len)| {
            (start..start + len).contains(&address) && weakness(address - start) == wrong
        })
    })
}

/// What an ordering promises here: see the head of this file.
fn promised(order: Ordering, most: Ordering) -> Ordering {
    if order == Ordering::SeqCst {
        most
    } else {
        order
    }
}

/// Notes an access that was made.
fn note(access: Access, address: usize, value: u64) {
    let thread = loom::thread::current().id();
    with(|world| world.history.push((thread, access, address, value)));
}

/// What threads of the run did so far, in the order of the schedule: a line each, with places in files by their offset.
pub fn history() -> String {
    use std::fmt::Write as _;
    with(|world| {
        let mut text = String::new();
        for (thread, access, address, value) in &world.history {
            let file = world
                .files
                .iter()
                .find(|(_, (start, len))| (*start..start + len).contains(address));
            let place = match file {
                Some((identity, (start, _))) => {
                    format!("inode {} + {}", identity.1, address - start)
                }
                None => format!("{address:x}"),
            };
            let _ = writeln!(text, "{thread:?} {access:?} {place}: {value}");
        }
        text
    })
}

fn atomic(address: usize, initial: u64) -> (Rc<loomed::AtomicU64>, u64) {
    step();
    with(|world| {
        let World { atomics, bound, .. } = world;
        let entry = bound.entry(address).or_insert_with(|| {
            let atomic = atomics
                .pop()
                .expect("more atomics than a run may use: raise ATOMICS");
            (atomic, initial)
        });
        (Rc::clone(&entry.0), entry.1)
    })
}

macro_rules! atomic {
    ($name:ident, $of:ty) => {
        /// As core's, which it is laid out as.
        #[repr(transparent)]
        pub struct $name(core::cell::UnsafeCell<$of>);

        // SAFETY: the memory is only read, and what changes is the checker's.
        unsafe impl Sync for $name {}

        impl $name {
            /// With this value at first.
            pub const fn new(value: $of) -> $name {
                $name(core::cell::UnsafeCell::new(value))
            }

            fn address(&self) -> usize {
                self.0.get() as usize
            }

            fn checked(&self) -> (Rc<loomed::AtomicU64>, u64) {
                // SAFETY: nobody writes to it.
                atomic(self.address(), u64::from(unsafe { *self.0.get() }))
            }

            fn store_order(&self, order: Ordering, most: Ordering) -> Ordering {
                if is_weak(self.address(), Weakness::Stores) {
                    Ordering::Relaxed
                } else {
                    promised(order, most)
                }
            }

            /// As core's.
            pub fn load(&self, order: Ordering) -> $of {
                let (atomic, initial) = self.checked();
                let order = if is_weak(self.address(), Weakness::Loads) {
                    Ordering::Relaxed
                } else {
                    promised(order, Ordering::Acquire)
                };
                let value = initial.wrapping_add(atomic.load(order)) as $of;
                note(Access::Load, self.address(), u64::from(value));
                value
            }

            /// As core's.
            pub fn store(&self, value: $of, order: Ordering) {
                let (atomic, initial) = self.checked();
                let order = self.store_order(order, Ordering::Release);
                atomic.store(u64::from(value).wrapping_sub(initial), order);
                note(Access::Store, self.address(), u64::from(value));
            }

            /// As core's.
            pub fn swap(&self, value: $of, order: Ordering) -> $of {
                let (atomic, initial) = self.checked();
                let order = self.store_order(order, Ordering::AcqRel);
                let before = atomic.swap(u64::from(value).wrapping_sub(initial), order);
                note(Access::Store, self.address(), u64::from(value));
                initial.wrapping_add(before) as $of
            }

            /// As core's.
            pub fn fetch_add(&self, value: $of, order: Ordering) -> $of {
                let (atomic, initial) = self.checked();
                let order = self.store_order(order, Ordering::AcqRel);
                let before = initial.wrapping_add(atomic.fetch_add(u64::from(value), order)) as $of;
                note(
                    Access::Store,
                    self.address(),
                    u64::from(before.wrapping_add(value)),
                );
                before
            }

            /// As core's.
            pub fn compare_exchange(
                &self,
                current: $of,
                new: $of,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$of, $of> {
                let (atomic, initial) = self.checked();
                let from = |value: u64| initial.wrapping_add(value) as $of;
                atomic
                    .compare_exchange(
                        u64::from(current).wrapping_sub(initial),
                        u64::from(new).wrapping_sub(initial),
                        self.store_order(success, Ordering::AcqRel),
                        promised(failure, Ordering::Acquire),
                    )
                    .map(from)
                    .map_err(from)
            }

            /// As core's.
            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                mut change: impl FnMut($of) -> Option<$of>,
            ) -> Result<$of, $of> {
                let (atomic, initial) = self.checked();
                let from = |value: u64| initial.wrapping_add(value) as $of;
                atomic
                    .fetch_update(
                        self.store_order(set, Ordering::AcqRel),
                        promised(fetch, Ordering::Acquire),
                        |value| change(from(value)).map(|new| u64::from(new).wrapping_sub(initial)),
                    )
                    .map(from)
                    .map_err(from)
            }
        }
    };
}

atomic!(AtomicU64, u64);
atomic!(AtomicU32, u32);

/// As core's.
pub fn fence(order: Ordering) {
    if WEAKNESS.get() != Some(Weakness::Fences) {
        loomed::fence(order);
    }
}

/// See `sync.rs`.
pub fn publish(cell: &AtomicU64, value: u64) {
    cell.swap(value, Ordering::SeqCst);
    if !is_weak(cell.address(), Weakness::Stores) {
        fence(Ordering::SeqCst);
    }
}

/// See `sync.rs`.
pub fn writes(address: *const u8, len: usize) {
    for cell in cells(address, len) {
        cell.with_mut(|_| ());
    }
}

/// See `sync.rs`.
pub fn reads(address: *const u8, len: usize) {
    for cell in cells(address, len) {
        cell.with(|_| ());
    }
}

fn cells(address: *const u8, len: usize) -> Vec<Rc<loom::cell::UnsafeCell<()>>> {
    step();
    let start = address as usize / CELL_BYTES;
    let end = (address as usize + len).div_ceil(CELL_BYTES);
    with(|world| {
        let World {
            cells, bound_cells, ..
        } = world;
        (start..end)
            .map(|at| {
                let cell = bound_cells.entry(at).or_insert_with(|| {
                    cells
                        .pop()
                        .expect("more bytes than a run may use: raise CELLS")
                });
                Rc::clone(cell)
            })
            .collect()
    })
}
