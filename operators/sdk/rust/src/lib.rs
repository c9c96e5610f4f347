//! Write a Penstock operator in Rust without touching Arrow.
//!
//! Name the parameters with [`params!`] and the state of one tag with
//! [`state!`], implement [`Operator`], and export it with [`export_map!`]; one
//! that makes rows of its own implements [`Emit`] too, and is exported with
//! [`export_emit!`]. The crate has no dependency and uses neither std nor alloc;
//! your crate says `#![no_std]` too.
//!
//! A panic is logged and stops the module; the host goes on by the operator's
//! on_error.
#![no_std]
#![cfg(target_arch = "wasm32")]

mod arrow;
mod memory;
mod output;
mod tags;

use core::fmt;
use core::marker::PhantomData;
use core::mem::size_of;

use arrow::{bit, c_text};
pub use arrow::{ArrowArray, ArrowSchema};
pub use memory::Global;
use output::Out;
use tags::Tags;

/// The types of columns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Timestamp,
    Tag,
    Float64,
    Uint32,
    String,
    Bool,
    Int64,
}

impl Type {
    fn format(self) -> &'static str {
        match self {
            Type::Timestamp => "tsn:UTC\0",
            Type::Tag => "i\0",
            Type::Float64 => "g\0",
            Type::Uint32 => "I\0",
            Type::String => "u\0",
            Type::Bool => "b\0",
            Type::Int64 => "l\0",
        }
    }
}

/// A column of the manifest. Only an [`Emit`] operator makes a tag.
pub struct Column {
    name: &'static str,
    typ: Type,
    nullable: bool,
}

impl Column {
    pub const fn new(name: &'static str, typ: Type) -> Column {
        Column { name, typ, nullable: false }
    }

    pub const fn nullable(name: &'static str, typ: Type) -> Column {
        Column { name, typ, nullable: true }
    }
}

/// Why a call failed; at most 256 bytes are kept.
pub struct Error {
    text: [u8; 256],
    len: usize,
}

impl Error {
    pub fn new(text: &str) -> Error {
        let mut e = Error { text: [0; 256], len: 0 };
        let _ = fmt::Write::write_str(&mut e, text);
        e
    }

    fn text(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

impl fmt::Write for Error {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            if self.len + c.len_utf8() > self.text.len() {
                return Ok(());
            }
            self.len += c.encode_utf8(&mut self.text[self.len..]).len();
        }
        Ok(())
    }
}

/// `Err(format_args!("window is {}", n).into())`
impl From<fmt::Arguments<'_>> for Error {
    fn from(a: fmt::Arguments<'_>) -> Error {
        let mut e = Error::new("");
        let _ = fmt::Write::write_fmt(&mut e, a);
        e
    }
}

impl From<&str> for Error {
    fn from(s: &str) -> Error {
        Error::new(s)
    }
}

/// An operator. By itself it is of the kind "map": it adds columns to each row.
pub trait Operator: Sized {
    /// The input columns of the manifest, in its order.
    const INPUT: &'static [Column];
    /// The output columns of the manifest, in its order.
    const OUTPUT: &'static [Column];
    /// Made with [`params!`].
    type Params: Params;
    /// Made with [`state!`]; all zero when its tag is first seen.
    type State: State;

    /// Called once, at the start.
    fn open(params: Self::Params) -> Result<Self, Error>;
    /// Called for each tag of each batch.
    fn run(&mut self, run: &Run, state: &mut Self::State, out: &mut Output) -> Result<(), Error>;
}

/// An operator of the kind "emit": it makes rows of its own, in run and in
/// advance, each with [`Output::add_row`].
pub trait Emit: Operator {
    /// Called for each tag seen so far, in the order in which they came, when the
    /// input is complete up to the watermark, in ns since 1970. The run has the
    /// tag, and no rows.
    fn advance(&mut self, run: &Run, state: &mut Self::State, watermark: i64, out: &mut Output) -> Result<(), Error>;
}

/// A parameter as it travels: 8 bytes.
pub trait Param {
    fn from_slot(slot: u64) -> Self;
}

impl Param for f64 {
    fn from_slot(slot: u64) -> f64 {
        f64::from_bits(slot)
    }
}

impl Param for i64 {
    fn from_slot(slot: u64) -> i64 {
        f64::from_bits(slot) as i64
    }
}

impl Param for bool {
    fn from_slot(slot: u64) -> bool {
        f64::from_bits(slot) != 0.0
    }
}

impl Param for &'static str {
    fn from_slot(slot: u64) -> &'static str {
        let (from, len) = (slot as u32 as *const u8, (slot >> 32) as usize);
        let to = memory::carve(len, 1);
        if to.is_null() {
            panic!("out of memory for the parameters");
        }
        unsafe {
            core::ptr::copy_nonoverlapping(from, to, len);
            core::str::from_utf8_unchecked(core::slice::from_raw_parts(to, len))
        }
    }
}

/// Implemented by [`params!`].
pub trait Params {
    const COUNT: usize;
    fn read(slots: &[u64]) -> Self;
}

/// Defines the parameters, in the manifest's order: `f64` for float and for a
/// duration in seconds, `i64` for int and for an enum's position, `bool`,
/// `&'static str`.
#[macro_export]
macro_rules! params {
    ($(#[$m:meta])* $v:vis struct $name:ident { $($(#[$fm:meta])* $field:ident: $t:ty),* $(,)? }) => {
        $(#[$m])* $v struct $name { $($(#[$fm])* pub $field: $t),* }
        impl $crate::Params for $name {
            const COUNT: usize = [$(stringify!($field)),*].len();
            fn read(slots: &[u64]) -> Self {
                let mut slots = slots.iter();
                $name { $($field: <$t as $crate::Param>::from_slot(*slots.next().unwrap())),* }
            }
        }
    };
}

/// What a state may consist of: every pattern of bits is a value.
///
/// # Safety
/// The type has no pointers, no padding, and no invalid values.
pub unsafe trait Number: Copy {}
unsafe impl Number for f64 {}
unsafe impl Number for i64 {}
unsafe impl Number for u64 {}
unsafe impl Number for f32 {}
unsafe impl Number for i32 {}
unsafe impl Number for u32 {}
unsafe impl Number for u8 {}
unsafe impl<T: Number, const N: usize> Number for [T; N] {}

/// Implemented by [`state!`].
///
/// # Safety
/// All zero is a value, and so is every other pattern of bits.
pub unsafe trait State: Copy {}

/// Defines the state of one tag: numbers and arrays of them. It is saved and
/// restored for you. Order the members by size, largest first.
#[macro_export]
macro_rules! state {
    ($(#[$m:meta])* $v:vis struct $name:ident { $($(#[$fm:meta])* $field:ident: $t:ty),* $(,)? }) => {
        $(#[$m])* #[repr(C)] #[derive(Clone, Copy)] $v struct $name { $($(#[$fm])* pub $field: $t),* }
        const _: () = { const fn number<T: $crate::Number>() {} $(number::<$t>();)* };
        unsafe impl $crate::State for $name {}
    };
}

/// The rows of one tag in a batch, in time order; in advance: none. Asking for a
/// column by another type than it has, or for a row that is not there, panics.
pub struct Run<'a> {
    tag: &'a [u8],
    first: usize,
    rows: usize,
    columns: &'static [Column],
    batch: Option<&'a ArrowArray>, // none in advance
}

impl<'a> Run<'a> {
    /// The tag; empty when no input column is one: the batch is one run then.
    pub fn tag(&self) -> &'a str {
        unsafe { core::str::from_utf8_unchecked(self.tag) }
    }

    /// At least 1; in advance 0.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn column(&self, column: usize, typ: Type) -> &'a ArrowArray {
        if self.columns[column].typ != typ {
            panic!("input column {} is read by another type than it has", self.columns[column].name);
        }
        self.child(column)
    }

    fn child(&self, column: usize) -> &'a ArrowArray {
        match self.batch {
            Some(b) => unsafe { b.child(column) },
            None => panic!("an input column is read in advance, where there is none"),
        }
    }

    fn slice<T>(&self, column: usize, typ: Type) -> &'a [T] {
        unsafe { core::slice::from_raw_parts(self.column(column, typ).at(1, self.first), self.rows) }
    }

    /// The values; that of a null is undefined.
    pub fn float64(&self, column: usize) -> &'a [f64] {
        self.slice(column, Type::Float64)
    }

    pub fn int64(&self, column: usize) -> &'a [i64] {
        self.slice(column, Type::Int64)
    }

    pub fn uint32(&self, column: usize) -> &'a [u32] {
        self.slice(column, Type::Uint32)
    }

    /// Nanoseconds since 1970.
    pub fn timestamp(&self, column: usize) -> &'a [i64] {
        self.slice(column, Type::Timestamp)
    }

    fn row(&self, i: usize) -> usize {
        assert!(i < self.rows, "the run has no such row");
        self.first + i
    }

    pub fn bool(&self, column: usize, i: usize) -> bool {
        let a = self.column(column, Type::Bool);
        unsafe { bit(*a.buffers.add(1), a.offset as usize + self.row(i)) }
    }

    pub fn string(&self, column: usize, i: usize) -> &'a str {
        unsafe { core::str::from_utf8_unchecked(self.column(column, Type::String).text(self.row(i))) }
    }

    pub fn is_null(&self, column: usize, i: usize) -> bool {
        assert!(column < self.columns.len(), "there is no such input column");
        unsafe {
            let a = self.child(column);
            let valid = *a.buffers;
            !valid.is_null() && !bit(valid, a.offset as usize + self.row(i))
        }
    }
}

/// Where a run's results go. Row i is one of the run's in a "map" operator, and
/// one that was added in an "emit" operator. A row of a nullable column is null
/// until a value is put into it. One that is not nullable is 0, false, "" in a
/// "map" operator; in an "emit" operator it must be put, or the call fails.
/// Running out of memory for rows or texts panics.
pub struct Output<'a> {
    columns: &'static [Column],
    out: &'a mut Out,
    tag: Option<&'a [u8]>, // the run's
    first: usize,
    rows: usize,
}

impl Output<'_> {
    /// Adds a row to what an "emit" operator makes and returns its number, for
    /// what is put into it: 0 is the first of this run. Its tag is the run's,
    /// unless another is put. Rows of one tag stand together, their time never
    /// goes down, and the host sets a limit (max_output_rows).
    pub fn add_row(&mut self) -> usize {
        assert!(self.out.emits, "a row is added by a map operator");
        let at = self.first + self.rows;
        if at == self.out.room && self.out.make_room(self.columns, (2 * at).max(64)).is_err() {
            panic!("out of memory for rows: raise the operator's memory limit or send it fewer tags");
        }
        if let (Some(column), Some(tag)) = (self.out.tag, self.tag) {
            let o = &mut self.out.column[column];
            if self.rows == 0 {
                self.out.run_tag = o.keep(tag);
            }
            unsafe {
                *(o.data.p as *mut u64).add(at) = self.out.run_tag;
                o.set_valid(at);
            }
        }
        self.rows += 1;
        self.rows - 1
    }

    fn put<T>(&mut self, column: usize, typ: Type, i: usize, v: T) {
        let at = self.mark(column, typ, i);
        unsafe { *(self.out.column[column].data.p as *mut T).add(at) = v };
    }

    fn mark(&mut self, column: usize, typ: Type, i: usize) -> usize {
        if self.columns[column].typ != typ {
            panic!("output column {} is written by another type than it has", self.columns[column].name);
        }
        assert!(i < self.rows, "the run has no such row to write to");
        let at = self.first + i;
        unsafe { self.out.column[column].set_valid(at) };
        at
    }

    pub fn put_float64(&mut self, column: usize, i: usize, v: f64) {
        self.put(column, Type::Float64, i, v)
    }

    pub fn put_int64(&mut self, column: usize, i: usize, v: i64) {
        self.put(column, Type::Int64, i, v)
    }

    pub fn put_uint32(&mut self, column: usize, i: usize, v: u32) {
        self.put(column, Type::Uint32, i, v)
    }

    /// Nanoseconds since 1970.
    pub fn put_timestamp(&mut self, column: usize, i: usize, v: i64) {
        self.put(column, Type::Timestamp, i, v)
    }

    pub fn put_bool(&mut self, column: usize, i: usize, v: bool) {
        let at = self.mark(column, Type::Bool, i);
        let byte = unsafe { &mut *self.out.column[column].data.p.add(at >> 3) };
        *byte = *byte & !(1 << (at & 7)) | (v as u8) << (at & 7);
    }

    /// A copy is kept.
    pub fn put_string(&mut self, column: usize, i: usize, v: &str) {
        self.put_text(column, Type::String, i, v)
    }

    pub fn put_tag(&mut self, column: usize, i: usize, v: &str) {
        self.put_text(column, Type::Tag, i, v)
    }

    fn put_text(&mut self, column: usize, typ: Type, i: usize, v: &str) {
        let at = self.mark(column, typ, i);
        let o = &mut self.out.column[column];
        let word = o.keep(v.as_bytes());
        unsafe { *(o.data.p as *mut u64).add(at) = word };
    }
}

/// OPC UA: the top bit of a quality says Bad; 0 is Good.
pub fn is_bad(quality: u32) -> bool {
    quality >> 31 != 0
}

/// The square root, rounded as IEEE 754 wants: core has none yet.
pub fn sqrt(x: f64) -> f64 {
    #[target_feature(enable = "simd128")]
    unsafe fn root(x: f64) -> f64 {
        use core::arch::wasm32::{f64x2_extract_lane, f64x2_splat, f64x2_sqrt};
        f64x2_extract_lane::<0>(f64x2_sqrt(f64x2_splat(x)))
    }
    unsafe { root(x) }
}

mod host {
    #[link(wasm_import_module = "penstock")]
    extern "C" {
        pub fn log(level: i32, text: *const u8, len: usize);
        pub fn metric(name: *const u8, len: usize, value: f64);
    }
}

/// Levels of the log.
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// Writes to the host's log: ten lines a second at most.
pub fn log(level: Level, text: &str) {
    unsafe { host::log(level as i32, text.as_ptr(), text.len()) }
}

/// Sets a gauge of the host's metrics: lower-case letters, digits and _.
pub fn metric(name: &str, value: f64) {
    unsafe { host::metric(name.as_ptr(), name.len(), value) }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let mut e = Error::new("");
    let _ = fmt::Write::write_fmt(&mut e, format_args!("{}", info));
    unsafe { host::log(3, e.text.as_ptr(), e.len) };
    core::arch::wasm32::unreachable()
}

const MAX_COLUMNS: usize = 64; // the manifest's limit

/// A piece of memory that is handed out.
#[repr(C)]
pub struct Buf {
    p: *const u8,
    len: usize,
}

/// Everything that the exports of one operator share. Made by [`export_map!`] or
/// [`export_emit!`].
pub struct Module<O: Operator> {
    operator: Option<O>,
    tags: Tags,
    tag_column: Option<usize>,
    out: Out,
    error: Error,
    state: PhantomData<O::State>,
}

/// The methods are the ABI's exports and trust the host's pointers.
#[allow(clippy::missing_safety_doc)]
impl<O: Operator> Module<O> {
    pub const fn new(emits: bool) -> Self {
        Module {
            operator: None,
            tags: Tags::new(size_of::<O::State>()),
            tag_column: None,
            out: Out::new(emits),
            error: Error { text: [0; 256], len: 0 },
            state: PhantomData,
        }
    }

    fn status(&mut self, r: Result<(), Error>) -> i32 {
        match r {
            Ok(()) => 0,
            Err(e) => {
                self.error = e;
                1
            }
        }
    }

    pub unsafe fn last_error(&mut self, out: *mut Buf) -> i32 {
        let t = self.error.text();
        *out = Buf { p: t.as_ptr(), len: t.len() };
        0
    }

    pub unsafe fn open(&mut self, params: *const u64, len: usize) -> i32 {
        let r = self.try_open(params, len);
        self.status(r)
    }

    unsafe fn try_open(&mut self, params: *const u64, len: usize) -> Result<(), Error> {
        if len != 8 * O::Params::COUNT {
            return Err(Error::new("the parameters in the source are not as many as in the manifest"));
        }
        self.operator = Some(O::open(O::Params::read(core::slice::from_raw_parts(params, len / 8)))?);
        Ok(())
    }

    pub unsafe fn bind(&mut self, input: *const ArrowSchema, out: *mut ArrowSchema) -> i32 {
        let r = self.try_bind(&*input, out);
        self.status(r)
    }

    unsafe fn try_bind(&mut self, input: &ArrowSchema, out: *mut ArrowSchema) -> Result<(), Error> {
        if input.n_children as usize != O::INPUT.len() {
            return Err(Error::new("the input columns in the source are not as many as in the manifest"));
        }
        self.tag_column = None;
        for (i, c) in O::INPUT.iter().enumerate() {
            let s = &**input.children.add(i);
            let format = c.typ.format().as_bytes();
            if c_text(s.name) != c.name.as_bytes() || c_text(s.format) != &format[..format.len() - 1] {
                return Err(format_args!("input column {} has another name, type or place in the manifest", c.name).into());
            }
            if s.flags & arrow::NULLABLE != 0 && !c.nullable {
                return Err(format_args!("input column {} may have nulls: the source does not call it nullable", c.name).into());
            }
            if c.typ == Type::Tag {
                self.tag_column = Some(i);
            }
        }
        self.out.bind(O::OUTPUT, out)
    }

    pub unsafe fn process(&mut self, input: *const ArrowArray, out: *mut ArrowArray) -> i32 {
        let r = self.try_process(&*input, out);
        self.status(r)
    }

    unsafe fn try_process(&mut self, input: &ArrowArray, out: *mut ArrowArray) -> Result<(), Error> {
        if input.n_children as usize != O::INPUT.len() || input.offset != 0 || input.length < 0 || input.length > i32::MAX as i64 {
            return Err(Error::new("the batch is not as it was bound"));
        }
        let n = input.length as usize;
        self.out.begin(O::OUTPUT);
        if !self.out.emits {
            self.out.make_room(O::OUTPUT, n)?;
        }
        let operator = match &mut self.operator {
            Some(o) => o,
            None => return Err(Error::new("process comes before open")),
        };
        let (mut first, mut made) = (0, 0);
        while first < n {
            let mut run = Run { tag: b"", first, rows: n - first, columns: O::INPUT, batch: Some(input) };
            if let Some(column) = self.tag_column {
                let tag = input.child(column);
                let index = core::slice::from_raw_parts(tag.at::<i32>(1, first), n - first);
                run.rows = index.iter().take_while(|&&x| x == index[0]).count();
                run.tag = (*tag.dictionary).text(index[0] as usize);
            }
            let state = &mut *(self.tags.state_of(run.tag)? as *mut O::State);
            let rows = if self.out.emits { 0 } else { run.rows };
            let mut to = Output { columns: O::OUTPUT, out: &mut self.out, tag: self.tag_column.map(|_| run.tag), first: made, rows };
            operator.run(&run, state, &mut to)?;
            made += to.rows;
            first += run.rows;
        }
        self.out.finish(O::OUTPUT, made, out)
    }

    pub unsafe fn snapshot(&mut self, out: *mut Buf) -> i32 {
        match self.tags.snapshot() {
            Ok((p, len)) => {
                *out = Buf { p, len };
                0
            }
            Err(e) => self.status(Err(e)),
        }
    }

    pub unsafe fn restore(&mut self, p: *const u8, len: usize) -> i32 {
        let r = self.tags.restore(core::slice::from_raw_parts(p, len));
        self.status(r)
    }
}

#[allow(clippy::missing_safety_doc)]
impl<O: Emit> Module<O> {
    pub unsafe fn advance(&mut self, watermark: i64, out: *mut ArrowArray) -> i32 {
        let r = self.try_advance(watermark, out);
        self.status(r)
    }

    unsafe fn try_advance(&mut self, watermark: i64, out: *mut ArrowArray) -> Result<(), Error> {
        let operator = match &mut self.operator {
            Some(o) => o,
            None => return Err(Error::new("advance comes before open")),
        };
        self.out.begin(O::OUTPUT);
        let mut made = 0;
        for i in 0..self.tags.count() {
            let (tag, state) = self.tags.at(i);
            let run = Run { tag, first: 0, rows: 0, columns: O::INPUT, batch: None };
            let mut to = Output { columns: O::OUTPUT, out: &mut self.out, tag: self.tag_column.map(|_| tag), first: made, rows: 0 };
            operator.advance(&run, &mut *(state as *mut O::State), watermark, &mut to)?;
            made += to.rows;
        }
        self.out.finish(O::OUTPUT, made, out)
    }
}

#[no_mangle]
extern "C" fn penstock_abi_version() -> i32 {
    1
}

#[no_mangle]
extern "C" fn penstock_alloc(size: usize, align: usize) -> *mut u8 {
    memory::alloc(size, align)
}

#[no_mangle]
extern "C" fn penstock_free(p: *mut u8, size: usize, align: usize) {
    memory::free(p, size, align)
}

/// Makes the module's exports of an [`Operator`].
#[macro_export]
macro_rules! export_map {
    ($op:ty) => {
        $crate::export_common!($op, false);
    };
}

/// Makes the module's exports of an [`Emit`] operator.
#[macro_export]
macro_rules! export_emit {
    ($op:ty) => {
        $crate::export_common!($op, true);
        #[no_mangle]
        unsafe extern "C" fn penstock_advance(watermark: i64, o: *mut $crate::ArrowArray) -> i32 {
            PENSTOCK.get().advance(watermark, o)
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! export_common {
    ($op:ty, $emits:expr) => {
        static PENSTOCK: $crate::Global<$crate::Module<$op>> = $crate::Global::new($crate::Module::new($emits));
        #[no_mangle]
        unsafe extern "C" fn penstock_open(p: *const u64, len: usize) -> i32 {
            PENSTOCK.get().open(p, len)
        }
        #[no_mangle]
        unsafe extern "C" fn penstock_bind(i: *const $crate::ArrowSchema, o: *mut $crate::ArrowSchema) -> i32 {
            PENSTOCK.get().bind(i, o)
        }
        #[no_mangle]
        unsafe extern "C" fn penstock_process(i: *const $crate::ArrowArray, o: *mut $crate::ArrowArray) -> i32 {
            PENSTOCK.get().process(i, o)
        }
        #[no_mangle]
        unsafe extern "C" fn penstock_snapshot(o: *mut $crate::Buf) -> i32 {
            PENSTOCK.get().snapshot(o)
        }
        #[no_mangle]
        unsafe extern "C" fn penstock_restore(p: *const u8, len: usize) -> i32 {
            PENSTOCK.get().restore(p, len)
        }
        #[no_mangle]
        unsafe extern "C" fn penstock_last_error(o: *mut $crate::Buf) -> i32 {
            PENSTOCK.get().last_error(o)
        }
    };
}
