// Write a Penstock operator in AssemblyScript without touching Arrow.
//
// operator.ts exports what exports.ts makes a module of:
//
//   inputs, outputs   the columns of the manifest, in its order
//   Params            @unmanaged class with one f64 for each parameter, in the manifest's
//                     order: numbers, durations in seconds, bool 0 or 1, an enum's position;
//                     for a string a u64, which text() reads
//   State             @unmanaged class: the state of one tag. Numbers only, f64 and i64 first;
//                     all zero when its tag is first seen; saved and restored for you
//   open(params)      called once; returns null, or why it fails
//   run(run, state)   called for each tag of each batch; likewise
//
// What run allocates is collected after each batch. Asking for a column by
// another type than it has, or for a row that is not there, stops the module
// with a message in the log. An operator that makes rows of its own ("emit") is
// written against the ABI itself.

export enum Type {
  Timestamp,
  Tag,
  Float64,
  Uint32,
  String,
  Bool,
  Int64,
}

/** A column of the manifest. Outputs may be of every type but tag and string. */
export class Column {
  constructor(
    public name: string,
    public type: Type,
    public nullable: bool = false,
  ) {}
}

// @ts-ignore: decorator
@external("penstock", "log")
declare function hostLog(level: i32, text: usize, len: u32): void;
// @ts-ignore: decorator
@external("penstock", "metric")
declare function hostMetric(name: usize, len: u32, value: f64): void;

export enum Level {
  Debug,
  Info,
  Warn,
  Error,
}

/** Writes to the host's log: ten lines a second at most. */
export function log(level: Level, text: string): void {
  const b = String.UTF8.encode(text);
  hostLog(level, changetype<usize>(b), b.byteLength);
}

/** Sets a gauge of the host's metrics: lower-case letters, digits and _. */
export function metric(name: string, value: f64): void {
  const b = String.UTF8.encode(name);
  hostMetric(changetype<usize>(b), b.byteLength, value);
}

/** OPC UA: the top bit of a quality says Bad; 0 is Good. */
// @ts-ignore: decorator
@inline
export function isBad(quality: u32): bool {
  return quality >> 31 != 0;
}

/** What a string parameter says. */
export function text(param: u64): string {
  return String.UTF8.decodeUnsafe(<usize>(param & 0xffffffff), <usize>(param >> 32));
}

/** Called where AssemblyScript aborts (asc --use abort): says why, and stops the module. */
export function stop(message: string | null, file: string | null, line: u32, column: u32): void {
  log(Level.Error, (message ? message : "abort") + " (" + (file ? file : "") + ":" + line.toString() + ")");
  unreachable();
}

/** The rows of one tag in a batch, in time order, and where their results go. */
export class Run {
  /** At least 1. */
  rows: i32 = 0;
  first: i32 = 0;
  tagAt: usize = 0;
  tagLen: u32 = 0;

  /** The tag; empty when no input column is one: the batch is one run then. */
  tag(): string {
    return String.UTF8.decodeUnsafe(this.tagAt, this.tagLen);
  }

  /** The value; that of a null is undefined. */
  // @ts-ignore: decorator
  @inline
  float64(column: i32, i: i32): f64 {
    return load<f64>(input(column, Type.Float64) + (<usize>this.row(i) << 3));
  }

  // @ts-ignore: decorator
  @inline
  int64(column: i32, i: i32): i64 {
    return load<i64>(input(column, Type.Int64) + (<usize>this.row(i) << 3));
  }

  /** Nanoseconds since 1970. */
  // @ts-ignore: decorator
  @inline
  timestamp(column: i32, i: i32): i64 {
    return load<i64>(input(column, Type.Timestamp) + (<usize>this.row(i) << 3));
  }

  // @ts-ignore: decorator
  @inline
  uint32(column: i32, i: i32): u32 {
    return load<u32>(input(column, Type.Uint32) + (<usize>this.row(i) << 2));
  }

  bool(column: i32, i: i32): bool {
    return bit(input(column, Type.Bool), bitsFrom[column] + this.row(i));
  }

  string(column: i32, i: i32): string {
    const ends = input(column, Type.String) + (<usize>this.row(i) << 2), from = load<i32>(ends);
    return String.UTF8.decodeUnsafe(bytesAt[column] + from, load<i32>(ends, 4) - from);
  }

  isNull(column: i32, i: i32): bool {
    const valid = validAt[column];
    return valid != 0 && !bit(valid, bitsFrom[column] + this.row(i));
  }

  // @ts-ignore: decorator
  @inline
  putFloat64(column: i32, i: i32, v: f64): void {
    store<f64>(this.output(column, Type.Float64, i) + (<usize>(this.first + i) << 3), v);
  }

  // @ts-ignore: decorator
  @inline
  putInt64(column: i32, i: i32, v: i64): void {
    store<i64>(this.output(column, Type.Int64, i) + (<usize>(this.first + i) << 3), v);
  }

  /** Nanoseconds since 1970. */
  // @ts-ignore: decorator
  @inline
  putTimestamp(column: i32, i: i32, v: i64): void {
    store<i64>(this.output(column, Type.Timestamp, i) + (<usize>(this.first + i) << 3), v);
  }

  // @ts-ignore: decorator
  @inline
  putUint32(column: i32, i: i32, v: u32): void {
    store<u32>(this.output(column, Type.Uint32, i) + (<usize>(this.first + i) << 2), v);
  }

  putBool(column: i32, i: i32, v: bool): void {
    const data = this.output(column, Type.Bool, i), at = this.first + i;
    const byte = data + <usize>(at >> 3), mask: u8 = 1 << <u8>(at & 7);
    store<u8>(byte, v ? load<u8>(byte) | mask : load<u8>(byte) & ~mask);
  }

  // @ts-ignore: decorator
  @inline
  row(i: i32): i32 {
    if (<u32>i >= <u32>this.rows) throw new Error("the run has no such row");
    return this.first + i;
  }

  /** Marks the row as not null and returns where the column's data begin. */
  // @ts-ignore: decorator
  @inline
  output(column: i32, type: Type, i: i32): usize {
    if (outputTypes[column] != type) throw new Error("an output column is written by another type than it has");
    const at = this.row(i), byte = unchecked(outputValid[column]) + <usize>(at >> 3);
    store<u8>(byte, load<u8>(byte) | (1 << <u8>(at & 7)));
    return unchecked(outputData[column]);
  }
}

// ---- What follows is how it works; nothing in it is for you to call. ----

/** The manifest's limit of columns. */
export const maxColumns = 64;

// Of the batch at hand: where each input column's data begin (the first row's, bits apart), its
// validity (0: no nulls), the position of its first bit, and a text column's bytes.
export const inputTypes = new StaticArray<i32>(maxColumns).fill(-1);
export const dataAt = new StaticArray<usize>(maxColumns);
export const validAt = new StaticArray<usize>(maxColumns);
export const bitsFrom = new StaticArray<i32>(maxColumns);
export const bytesAt = new StaticArray<usize>(maxColumns);
// And where the outputs go.
export const outputTypes = new StaticArray<i32>(maxColumns).fill(-1);
export const outputData = new StaticArray<usize>(maxColumns);
export const outputValid = new StaticArray<usize>(maxColumns);

// @ts-ignore: decorator
@inline
function input(column: i32, type: Type): usize {
  if (inputTypes[column] != type) throw new Error("an input column is read by another type than it has");
  return unchecked(dataAt[column]);
}

// @ts-ignore: decorator
@inline
function bit(bits: usize, i: i32): bool {
  return ((load<u8>(bits + <usize>(i >> 3)) >> <u8>(i & 7)) & 1) != 0;
}
