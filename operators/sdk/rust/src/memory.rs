//! The module's memory. Blocks are powers of two from 16 bytes, with a free
//! list for each size; what lives as long as the module is carved off without
//! rounding. Memory grows until the host's limit, then both return null.
//! WebAssembly without threads: nothing here is called twice at once.

use core::arch::wasm32::{memory_grow, memory_size};
use core::cell::UnsafeCell;
use core::ptr::null_mut;

/// A static that the module's one thread may change.
pub struct Global<T>(UnsafeCell<T>);

unsafe impl<T> Sync for Global<T> {}

impl<T> Global<T> {
    pub const fn new(v: T) -> Self {
        Global(UnsafeCell::new(v))
    }

    /// The caller sees to it that no other reference is alive.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn get(&self) -> &mut T {
        &mut *self.0.get()
    }
}

struct Heap {
    at: usize,
    end: usize,
    free: [*mut u8; 32],
}

static HEAP: Global<Heap> = Global::new(Heap { at: 0, end: 0, free: [null_mut(); 32] });

extern "C" {
    static __heap_base: u8;
}

const PAGE: usize = 65536;
const LARGEST: usize = 1 << 30;

/// Size bytes that are never freed, or null. Align is a power of two, at most 64.
pub fn carve(size: usize, align: usize) -> *mut u8 {
    if size > LARGEST {
        return null_mut();
    }
    let h = unsafe { HEAP.get() };
    if h.at == 0 {
        h.at = unsafe { core::ptr::addr_of!(__heap_base) as usize };
        h.end = memory_size(0) * PAGE;
    }
    let mut p = (h.at + align - 1) & !(align - 1);
    if p > h.end || h.end - p < size {
        let pages = (size + align) / PAGE + 1;
        let mut more = pages.max(16);
        if memory_grow(0, more) == usize::MAX {
            more = pages;
            if memory_grow(0, more) == usize::MAX {
                return null_mut();
            }
        }
        h.end += more * PAGE;
        p = (h.at + align - 1) & !(align - 1);
    }
    h.at = p + size;
    p as *mut u8
}

fn class(size: usize) -> usize {
    if size <= 16 {
        4
    } else {
        32 - ((size - 1) as u32).leading_zeros() as usize
    }
}

pub fn alloc(size: usize, align: usize) -> *mut u8 {
    if size > LARGEST || align > 64 {
        return null_mut();
    }
    let c = class(size.max(align));
    let head = unsafe { &mut HEAP.get().free[c] };
    if !head.is_null() {
        let p = *head;
        *head = unsafe { *(p as *mut *mut u8) };
        return p;
    }
    carve(1 << c, if c < 6 { 1 << c } else { 64 })
}

pub fn free(p: *mut u8, size: usize, align: usize) {
    if p.is_null() || size > LARGEST || align > 64 {
        return;
    }
    unsafe {
        let head = &mut HEAP.get().free[class(size.max(align))];
        *(p as *mut *mut u8) = *head;
        *head = p;
    }
}

/// A buffer that every call uses again and that grows to the largest.
#[derive(Clone, Copy)]
pub struct Buffer {
    pub p: *mut u8,
    cap: usize,
}

impl Buffer {
    pub const EMPTY: Buffer = Buffer { p: null_mut(), cap: 0 };

    /// Makes it hold n bytes: the first `keep` as they are, the others zero; false
    /// when out of memory.
    pub fn extend(&mut self, keep: usize, n: usize) -> bool {
        if n > self.cap {
            if n > LARGEST {
                return false;
            }
            let cap = 1 << class(n);
            let p = alloc(cap, 64);
            if p.is_null() {
                return false;
            }
            if keep > 0 {
                unsafe { p.copy_from_nonoverlapping(self.p, keep) };
            }
            free(self.p, self.cap, 64);
            *self = Buffer { p, cap };
        }
        if n > keep {
            unsafe { self.p.add(keep).write_bytes(0, n - keep) };
        }
        true
    }
}
