//! Looking up libc's symbols in its own tables. `dlsym` would need a handle, whose making allocates, and asking for a
//! symbol's size (`dladdr1`) goes through all symbols each time: that alone would double the cost of starting a program.

use libc::{c_int, c_void};

const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;
/// In a symbol's version: not the default one.
const VERSION_HIDDEN: u16 = 0x8000;
const NAME_BYTES_MAX: usize = 64;

/// An object that is loaded: its text and its symbol tables, which stay where they are.
pub(super) struct Object {
    /// Where its executable segment begins.
    pub(super) text_start: usize,
    /// Where that ends.
    pub(super) text_end: usize,
    base: usize,
    strings: usize,
    symbols: usize,
    hash: usize,
    versions: usize,
}

/// A function of the object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    /// Where it begins.
    pub(super) address: usize,
    /// Its size in bytes.
    pub(super) size: usize,
}

struct Search {
    around: usize,
    found: Option<Object>,
}

/// The object whose text an address lies in.
pub(super) fn object_around(address: usize) -> Option<Object> {
    let mut search = Search {
        around: address,
        found: None,
    };
    // SAFETY: the callback gets our structure back.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    search
        .found
        .filter(|object| object.strings != 0 && object.symbols != 0 && object.hash != 0)
}

unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _: usize, search: *mut c_void) -> c_int {
    // SAFETY: the loader gives valid headers, and `search` is what object_around passed.
    unsafe {
        let search = &mut *search.cast::<Search>();
        let info = &*info;
        let base = info.dlpi_addr as usize;
        let mut object = Object {
            text_start: 0,
            text_end: 0,
            base,
            strings: 0,
            symbols: 0,
            hash: 0,
            versions: 0,
        };
        for at in 0..usize::from(info.dlpi_phnum) {
            let header = &*info.dlpi_phdr.add(at);
            let start = base + header.p_vaddr as usize;
            let end = start + header.p_memsz as usize;
            let is_text = header.p_type == libc::PT_LOAD
                && header.p_flags & libc::PF_X != 0
                && header.p_flags & libc::PF_W == 0;
            if is_text && (start..end).contains(&search.around) {
                object.text_start = start;
                object.text_end = end;
            }
            if header.p_type == libc::PT_DYNAMIC {
                object.read_dynamic(start as *const [u64; 2]);
            }
        }
        if object.text_end == 0 {
            return 0;
        }
        search.found = Some(object);
        1
    }
}

impl Object {
    /// # Safety
    /// `entry` must be the object's dynamic section.
    unsafe fn read_dynamic(&mut self, mut entry: *const [u64; 2]) {
        // SAFETY: the section ends with a tag 0.
        unsafe {
            loop {
                let [tag, value] = entry.read();
                // The loader has made the addresses absolute, except where the section is read-only.
                let value = value as usize;
                let address = if value < self.base {
                    self.base + value
                } else {
                    value
                };
                match tag {
                    0 => return,
                    DT_STRTAB => self.strings = address,
                    DT_SYMTAB => self.symbols = address,
                    DT_GNU_HASH => self.hash = address,
                    DT_VERSYM => self.versions = address,
                    _ => {}
                }
                entry = entry.add(1);
            }
        }
    }

    /// The function of this name, in its default version.
    pub(super) fn function(&self, name: &core::ffi::CStr) -> Option<Function> {
        let name = name.to_bytes_with_nul();
        let hash = gnu_hash(name.get(..name.len().checked_sub(1)?)?);
        // SAFETY: the table is laid out as the loader relies on: numbers of buckets, first symbol, words of the filter,
        // its shift; the filter; the buckets; a hash per symbol, whose lowest bit ends a bucket.
        unsafe {
            let header = self.hash as *const u32;
            let (buckets, first, words) = (
                header.read() as usize,
                header.add(1).read() as usize,
                header.add(2).read() as usize,
            );
            if buckets == 0 {
                return None;
            }
            let bucket_table = header.add(4 + 2 * words);
            let chain = bucket_table.add(buckets);
            let mut index = bucket_table.add(hash as usize % buckets).read() as usize;
            if index < first {
                return None;
            }
            loop {
                let of_symbol = chain.add(index - first).read();
                if of_symbol | 1 == hash | 1
                    && let Some(function) = self.function_if_named(index, name)
                {
                    return Some(function);
                }
                if of_symbol & 1 != 0 {
                    return None;
                }
                index += 1;
            }
        }
    }

    /// # Safety
    /// There must be that many symbols.
    unsafe fn function_if_named(&self, index: usize, name: &[u8]) -> Option<Function> {
        const STT_FUNC: u8 = 2;
        // SAFETY: the tables are the loader's own; names end with NUL, so comparing stops there.
        unsafe {
            let symbol = &*(self.symbols as *const libc::Elf64_Sym).add(index);
            let text = (self.strings + symbol.st_name as usize) as *const u8;
            let is_same = name
                .iter()
                .take(NAME_BYTES_MAX)
                .enumerate()
                .all(|(at, &byte)| text.add(at).read() == byte);
            let is_default = self.versions == 0
                || (self.versions as *const u16).add(index).read() & VERSION_HIDDEN == 0;
            let is_function = symbol.st_info & 15 == STT_FUNC && symbol.st_shndx != 0;
            (is_same && is_default && is_function).then(|| Function {
                address: self.base + symbol.st_value as usize,
                size: symbol.st_size as usize,
            })
        }
    }
}

fn gnu_hash(name: &[u8]) -> u32 {
    name.iter().fold(5381u32, |hash, &byte| {
        hash.wrapping_mul(33).wrapping_add(u32::from(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_libc_are_found() {
        let object = object_around(libc::getpid as *const () as usize).expect("libc is loaded");
        let found = object.function(c"getpid").expect("libc has it");
        assert_eq!(found.address, libc::getpid as *const () as usize);
        assert!(found.size > 0);
        assert!(object.function(c"__close_nocancel").is_some());
        assert!(object.function(c"counterfoil").is_none());
        assert_eq!(gnu_hash(b"printf"), 0x156b_2bb8);
    }
}
