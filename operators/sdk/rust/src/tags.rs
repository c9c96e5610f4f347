//! Tags and their states, in the order in which they were first seen, and the
//! snapshot of all of them.

use core::ptr::{copy_nonoverlapping, null_mut};

use crate::memory::{alloc, carve, free, Buffer};
use crate::Error;

struct Entry {
    next: *mut Entry, // of the same bucket
    state: *mut u8,
    hash: u32,
    len: usize, // of the name, which follows
}

const HEAD: usize = core::mem::size_of::<Entry>();

impl Entry {
    unsafe fn name<'a>(this: *const Entry) -> &'a [u8] {
        core::slice::from_raw_parts((this as *const u8).add(HEAD), (*this).len)
    }
}

pub struct Tags {
    list: *mut *mut Entry,
    buckets: *mut *mut Entry,
    count: usize,
    cap: usize, // of both, a power of two
    state_size: usize,
    snapshot: Buffer,
}

const MAGIC: &[u8] = b"PENSTAT1";

fn padded(n: usize) -> usize {
    (n + 7) & !7
}

pub fn no_memory() -> Error {
    Error::new("out of memory: raise the operator's memory limit or send it fewer tags")
}

impl Tags {
    pub const fn new(state_size: usize) -> Tags {
        Tags { list: null_mut(), buckets: null_mut(), count: 0, cap: 0, state_size, snapshot: Buffer::EMPTY }
    }

    unsafe fn grow(&mut self) -> Result<(), Error> {
        let cap = (self.cap * 2).max(64);
        let list = alloc(cap * 4, 64) as *mut *mut Entry;
        let buckets = alloc(cap * 4, 64) as *mut *mut Entry;
        if list.is_null() || buckets.is_null() {
            return Err(no_memory());
        }
        buckets.write_bytes(0, cap);
        for i in 0..self.count {
            let t = *self.list.add(i);
            *list.add(i) = t;
            let b = buckets.add((*t).hash as usize & (cap - 1));
            (*t).next = *b;
            *b = t;
        }
        free(self.list as *mut u8, self.cap * 4, 64);
        free(self.buckets as *mut u8, self.cap * 4, 64);
        self.list = list;
        self.buckets = buckets;
        self.cap = cap;
        Ok(())
    }

    /// The state of the tag, all zero if it is new: state_size bytes, aligned to 16.
    pub fn state_of(&mut self, name: &[u8]) -> Result<*mut u8, Error> {
        let mut hash: u32 = 2166136261;
        for &b in name {
            hash = (hash ^ b as u32).wrapping_mul(16777619);
        }
        unsafe {
            if self.cap > 0 {
                let mut t = *self.buckets.add(hash as usize & (self.cap - 1));
                while !t.is_null() {
                    if (*t).hash == hash && Entry::name(t) == name {
                        return Ok((*t).state);
                    }
                    t = (*t).next;
                }
            }
            if self.count == self.cap {
                self.grow()?;
            }
            let head = (HEAD + name.len() + 15) & !15;
            let p = carve(head + self.state_size, 16);
            if p.is_null() {
                return Err(no_memory());
            }
            p.write_bytes(0, head + self.state_size);
            let t = p as *mut Entry;
            let b = self.buckets.add(hash as usize & (self.cap - 1));
            *t = Entry { next: *b, state: p.add(head), hash, len: name.len() };
            copy_nonoverlapping(name.as_ptr(), p.add(HEAD), name.len());
            *b = t;
            *self.list.add(self.count) = t;
            self.count += 1;
            Ok((*t).state)
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The name and the state of tag i, in the order in which they came.
    pub unsafe fn at<'a>(&self, i: usize) -> (&'a [u8], *mut u8) {
        let t = *self.list.add(i);
        (Entry::name(t), (*t).state)
    }

    /// A snapshot, little endian, the same in every SDK: "PENSTAT1", the size of
    /// a state and the number of tags (4 bytes each); for each tag the length of
    /// its name (8 bytes), the name filled up with zeros to 8 bytes, and its
    /// state, likewise.
    pub fn snapshot(&mut self) -> Result<(*const u8, usize), Error> {
        let size = self.state_size;
        unsafe {
            let mut n = 16;
            for i in 0..self.count {
                n += 8 + padded((**self.list.add(i)).len) + padded(size);
            }
            if !self.snapshot.extend(0, n) {
                return Err(no_memory());
            }
            let mut p = self.snapshot.p;
            copy_nonoverlapping(MAGIC.as_ptr(), p, 8);
            *(p.add(8) as *mut u32) = size as u32;
            *(p.add(12) as *mut u32) = self.count as u32;
            p = p.add(16);
            for i in 0..self.count {
                let t = *self.list.add(i);
                let name = Entry::name(t);
                *(p as *mut u64) = name.len() as u64;
                copy_nonoverlapping(name.as_ptr(), p.add(8), name.len());
                p = p.add(8 + padded(name.len()));
                copy_nonoverlapping((*t).state, p, size);
                p = p.add(padded(size));
            }
            Ok((self.snapshot.p, n))
        }
    }

    pub fn restore(&mut self, from: &[u8]) -> Result<(), Error> {
        if self.count > 0 {
            return Err(Error::new("restore into a module that has tags already"));
        }
        if from.len() < 16 || &from[..8] != MAGIC {
            return Err(Error::new("the snapshot is not one of a module's states"));
        }
        let word = |at: usize| u32::from_le_bytes([from[at], from[at + 1], from[at + 2], from[at + 3]]) as usize;
        let room = padded(self.state_size);
        if word(8) != self.state_size {
            return Err(Error::new("the snapshot's states have another size"));
        }
        let mut at = 16;
        for i in 0..word(12) {
            let left = from.len() - at;
            let ends = Error::new("the snapshot ends in the middle of a tag");
            if left < 8 {
                return Err(ends);
            }
            let name = word(at);
            if word(at + 4) != 0 || name > left || 8 + padded(name) + room > left {
                return Err(ends);
            }
            let state = self.state_of(&from[at + 8..at + 8 + name])?;
            if self.count != i + 1 {
                return Err(Error::new("the snapshot has a tag twice"));
            }
            at += 8 + padded(name);
            unsafe { copy_nonoverlapping(from[at..].as_ptr(), state, self.state_size) };
            at += room;
        }
        if at != from.len() {
            return Err(Error::new("the snapshot has bytes left over"));
        }
        Ok(())
    }
}
