//! The Arrow C Data Interface, as the host lays it out (wasm32).

#[repr(C)]
pub struct ArrowSchema {
    pub format: *const u8,
    pub name: *const u8,
    pub metadata: *const u8,
    pub flags: i64,
    pub n_children: i64,
    pub children: *const *const ArrowSchema,
    pub dictionary: *const ArrowSchema,
    pub release: usize,
    pub private_data: usize,
}

pub const NULLABLE: i64 = 2;

impl ArrowSchema {
    pub const ZERO: ArrowSchema = ArrowSchema {
        format: core::ptr::null(),
        name: core::ptr::null(),
        metadata: core::ptr::null(),
        flags: 0,
        n_children: 0,
        children: core::ptr::null(),
        dictionary: core::ptr::null(),
        release: 0,
        private_data: 0,
    };
}

#[repr(C)]
pub struct ArrowArray {
    pub length: i64,
    pub null_count: i64,
    pub offset: i64,
    pub n_buffers: i64,
    pub n_children: i64,
    pub buffers: *const *const u8,
    pub children: *const *const ArrowArray,
    pub dictionary: *const ArrowArray,
    pub release: usize,
    pub private_data: usize,
}

impl ArrowArray {
    pub const ZERO: ArrowArray = ArrowArray {
        length: 0,
        null_count: 0,
        offset: 0,
        n_buffers: 0,
        n_children: 0,
        buffers: core::ptr::null(),
        children: core::ptr::null(),
        dictionary: core::ptr::null(),
        release: 0,
        private_data: 0,
    };

    /// Element `at` of buffer `buffer`, counted from the array's offset.
    pub unsafe fn at<T>(&self, buffer: usize, at: usize) -> *const T {
        (*self.buffers.add(buffer) as *const T).add(self.offset as usize + at)
    }

    pub unsafe fn child(&self, i: usize) -> &ArrowArray {
        &**self.children.add(i)
    }

    /// Text i of an array of strings.
    pub unsafe fn text(&self, i: usize) -> &[u8] {
        let ends: *const i32 = self.at(1, i);
        core::slice::from_raw_parts((*self.buffers.add(2)).add(*ends as usize), (*ends.add(1) - *ends) as usize)
    }
}

pub unsafe fn bit(bits: *const u8, i: usize) -> bool {
    *bits.add(i >> 3) >> (i & 7) & 1 != 0
}

/// The text of a C string.
pub unsafe fn c_text<'a>(p: *const u8) -> &'a [u8] {
    let mut n = 0;
    while *p.add(n) != 0 {
        n += 1;
    }
    core::slice::from_raw_parts(p, n)
}
