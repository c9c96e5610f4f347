//! The columns that a call makes. Every call uses the same memory again.

use crate::arrow::{bit, ArrowArray, ArrowSchema, NULLABLE};
use crate::memory::Buffer;
use crate::tags::no_memory;
use crate::{Column, Error, Type, MAX_COLUMNS};

/// A text or tag stands in data as where it begins in put and, in the upper
/// half, its length, until `finish`.
pub struct OutColumn {
    pub data: Buffer,
    pub valid: Buffer,
    put: Buffer,
    put_len: usize,
    text: Buffer,
    pointers: [*const u8; 3],
    array: ArrowArray,
    schema: ArrowSchema,
    name: [u8; 65], // with its end
}

pub struct Out {
    pub emits: bool,
    pub tag: Option<usize>, // the column
    pub room: usize,        // for so many rows, all zero until they are written
    pub run_tag: u64,       // that of the rows of the run, as it stands in data
    pub column: [OutColumn; MAX_COLUMNS],
    ends: Buffer, // of the texts of the tags' dictionary
    dictionary: ArrowArray,
    dictionary_buffers: [*const u8; 3],
    arrays: [*const ArrowArray; MAX_COLUMNS],
    schemas: [*const ArrowSchema; MAX_COLUMNS],
    no_buffer: [*const u8; 1],
}

fn bit_bytes(rows: usize) -> usize {
    (rows + 63) / 64 * 8
}

fn data_bytes(typ: Type, rows: usize) -> usize {
    match typ {
        Type::Bool => bit_bytes(rows),
        Type::Uint32 => rows.saturating_mul(4),
        _ => rows.saturating_mul(8),
    }
}

impl OutColumn {
    pub unsafe fn set_valid(&mut self, row: usize) {
        *self.valid.p.add(row >> 3) |= 1 << (row & 7);
    }

    /// Copies a text and returns how it stands in data.
    pub fn keep(&mut self, text: &[u8]) -> u64 {
        let from = self.put_len;
        if !self.put.extend(from, from + text.len()) {
            panic!("out of memory for texts: raise the operator's memory limit or send it fewer tags");
        }
        unsafe { self.put.p.add(from).copy_from_nonoverlapping(text.as_ptr(), text.len()) };
        self.put_len += text.len();
        from as u64 | (text.len() as u64) << 32
    }

    /// The text that row i was given.
    unsafe fn kept<'a>(&self, i: usize) -> &'a [u8] {
        let word = *(self.data.p as *const u64).add(i);
        if word >> 32 == 0 {
            return b"";
        }
        core::slice::from_raw_parts(self.put.p.add(word as u32 as usize), (word >> 32) as usize)
    }

    /// Appends to the texts that are handed out, of which there are `end` bytes.
    unsafe fn append(&mut self, end: usize, text: &[u8]) -> Result<usize, Error> {
        if !self.text.extend(end, end + text.len()) {
            return Err(no_memory());
        }
        self.text.p.add(end).copy_from_nonoverlapping(text.as_ptr(), text.len());
        Ok(end + text.len())
    }

    /// Makes offsets of data, in its place: row i's 4 bytes are no further than
    /// the 8 that were read.
    unsafe fn finish_texts(&mut self, rows: usize) -> Result<(), Error> {
        let offsets = self.data.p as *mut i32;
        let mut end = 0;
        for i in 0..rows {
            end = self.append(end, self.kept(i))?;
            if i == 0 {
                *offsets = 0;
            }
            *offsets.add(i + 1) = end as i32;
        }
        self.pointers[2] = self.text.p;
        Ok(())
    }

    /// Likewise makes the numbers of runs, and the texts of a dictionary, whose
    /// number it returns.
    unsafe fn finish_tags(&mut self, rows: usize, ends: &mut Buffer) -> Result<usize, Error> {
        let numbers = self.data.p as *mut i32;
        let (mut runs, mut last, mut end): (usize, &[u8], usize) = (0, b"", 0);
        if !ends.extend(0, 4) {
            return Err(no_memory());
        }
        for i in 0..rows {
            let name = self.kept(i);
            if i == 0 || name != last {
                last = name;
                end = self.append(end, name)?;
                if !ends.extend(4 * (runs + 1), 4 * (runs + 2)) {
                    return Err(no_memory());
                }
                runs += 1;
                *(ends.p as *mut i32).add(runs) = end as i32;
            }
            *numbers.add(i) = runs as i32 - 1;
        }
        Ok(runs)
    }
}

impl Out {
    pub const fn new(emits: bool) -> Out {
        const EMPTY: OutColumn = OutColumn {
            data: Buffer::EMPTY,
            valid: Buffer::EMPTY,
            put: Buffer::EMPTY,
            put_len: 0,
            text: Buffer::EMPTY,
            pointers: [core::ptr::null(); 3],
            array: ArrowArray::ZERO,
            schema: ArrowSchema::ZERO,
            name: [0; 65],
        };
        Out {
            emits,
            tag: None,
            room: 0,
            run_tag: 0,
            column: [EMPTY; MAX_COLUMNS],
            ends: Buffer::EMPTY,
            dictionary: ArrowArray::ZERO,
            dictionary_buffers: [core::ptr::null(); 3],
            arrays: [core::ptr::null(); MAX_COLUMNS],
            schemas: [core::ptr::null(); MAX_COLUMNS],
            no_buffer: [core::ptr::null()],
        }
    }

    pub unsafe fn bind(&mut self, columns: &[Column], out: *mut ArrowSchema) -> Result<(), Error> {
        if columns.len() > MAX_COLUMNS {
            return Err(Error::new("there are more output columns than the manifest may have"));
        }
        self.tag = None;
        for (i, c) in columns.iter().enumerate() {
            if c.name.len() > 64 {
                return Err(format_args!("output column {} has a longer name than the manifest may have", c.name).into());
            }
            if c.typ == Type::Tag {
                if !self.emits {
                    return Err(format_args!("output column {} may not be a tag: a map operator's rows have theirs", c.name).into());
                }
                self.tag = Some(i);
            }
            let o = &mut self.column[i];
            o.name[..c.name.len()].copy_from_slice(c.name.as_bytes());
            o.schema.format = c.typ.format().as_ptr();
            o.schema.name = o.name.as_ptr();
            o.schema.flags = if c.nullable { NULLABLE } else { 0 };
            self.schemas[i] = &o.schema;
        }
        *out = ArrowSchema {
            format: b"+s\0".as_ptr(),
            name: b"\0".as_ptr(),
            n_children: columns.len() as i64,
            children: self.schemas.as_ptr(),
            ..ArrowSchema::ZERO
        };
        Ok(())
    }

    /// Begins a call that makes rows.
    pub fn begin(&mut self, columns: &[Column]) {
        self.room = 0;
        for o in &mut self.column[..columns.len()] {
            o.put_len = 0;
        }
    }

    pub fn make_room(&mut self, columns: &[Column], rows: usize) -> Result<(), Error> {
        for (o, c) in self.column.iter_mut().zip(columns) {
            if !o.data.extend(data_bytes(c.typ, self.room), data_bytes(c.typ, rows)) || !o.valid.extend(bit_bytes(self.room), bit_bytes(rows)) {
                return Err(no_memory());
            }
        }
        self.room = rows;
        Ok(())
    }

    /// Hands out the rows that the call made.
    pub unsafe fn finish(&mut self, columns: &[Column], rows: usize, out: *mut ArrowArray) -> Result<(), Error> {
        if rows == 0 && self.emits {
            return Ok(());
        }
        for (i, c) in columns.iter().enumerate() {
            let o = &mut self.column[i];
            if self.emits && !c.nullable && !(0..rows).all(|row| bit(o.valid.p, row)) {
                return Err(format_args!("output column {} has no value in a row, and is not nullable", c.name).into());
            }
            o.pointers = [if c.nullable { o.valid.p } else { core::ptr::null() }, o.data.p, core::ptr::null()];
            o.array = ArrowArray { length: rows as i64, null_count: if c.nullable { -1 } else { 0 }, n_buffers: 2, buffers: o.pointers.as_ptr(), ..ArrowArray::ZERO };
            match c.typ {
                Type::String => {
                    o.array.n_buffers = 3;
                    o.finish_texts(rows)?;
                }
                Type::Tag => {
                    let runs = o.finish_tags(rows, &mut self.ends)?;
                    self.dictionary_buffers = [core::ptr::null(), self.ends.p, o.text.p];
                    self.dictionary = ArrowArray { length: runs as i64, n_buffers: 3, buffers: self.dictionary_buffers.as_ptr(), ..ArrowArray::ZERO };
                    o.array.dictionary = &self.dictionary;
                }
                _ => {}
            }
            self.arrays[i] = &o.array;
        }
        *out = ArrowArray {
            length: rows as i64,
            n_buffers: 1,
            buffers: self.no_buffer.as_ptr(),
            n_children: columns.len() as i64,
            children: self.arrays.as_ptr(),
            ..ArrowArray::ZERO
        };
        Ok(())
    }
}
