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
//   advance(run, state, watermark)
//                     of an "emit" operator, which makes rows of its own: called for each tag seen
//                     so far, in the order in which they came, when the input is complete up to
//                     the watermark (ns since 1970). The run has the tag, and no rows; likewise
//
// A row of a nullable output column is null until you put a value into it. One
// that is not nullable is 0, false, "" in a "map" operator; in an "emit"
// operator it must be put, or the call fails. What a call allocates is collected
// after it. Asking for a column by another type than it has, or for a row that is
// not there, and running out of memory for rows or texts, stop the module with a
// message in the log.

import { Type } from "./column";
import { emits, keep, maxColumns, needRow, outputData, outputTypes, outputValid, outTag, wordOf } from "./output";

export { Column, Type } from "./column";

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

/**
 * The rows of one tag in a batch, in time order, and where results go: row i of
 * the output of a "map" operator is that of the input, of an "emit" operator one
 * that was added.
 */
export class Run {
  /** At least 1; in advance 0. */
  rows: i32 = 0;
  first: i32 = 0;
  made: i32 = 0; // of the output
  madeFirst: i32 = 0;
  hasTag: bool = false;
  tagAt: usize = 0;
  tagLen: u32 = 0;
  tagWord: u64 = 0; // as it stands in the output

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
    const valid = validAt[column], row = this.row(i);
    return valid != 0 && !bit(valid, bitsFrom[column] + row);
  }

  /**
   * Adds a row to what an "emit" operator makes and returns its number, for what
   * is put into it: 0 is the first of this run. Its tag is the run's, unless
   * another is put. Rows of one tag stand together, their time never goes down,
   * and the host sets a limit (max_output_rows).
   */
  addRow(): i32 {
    if (!emits) throw new Error("a row is added by a map operator");
    const at = this.madeFirst + this.made;
    needRow(at);
    if (outTag >= 0 && this.hasTag) {
      if (this.made == 0) {
        memory.copy(keep(outTag, this.tagLen), this.tagAt, this.tagLen);
        this.tagWord = wordOf(outTag, this.tagLen);
      }
      setValid(outTag, at);
      store<u64>(outputData[outTag] + (<usize>at << 3), this.tagWord);
    }
    return this.made++;
  }

  // @ts-ignore: decorator
  @inline
  putFloat64(column: i32, i: i32, v: f64): void {
    store<f64>(this.output(column, Type.Float64, i) + (<usize>(this.madeFirst + i) << 3), v);
  }

  // @ts-ignore: decorator
  @inline
  putInt64(column: i32, i: i32, v: i64): void {
    store<i64>(this.output(column, Type.Int64, i) + (<usize>(this.madeFirst + i) << 3), v);
  }

  /** Nanoseconds since 1970. */
  // @ts-ignore: decorator
  @inline
  putTimestamp(column: i32, i: i32, v: i64): void {
    store<i64>(this.output(column, Type.Timestamp, i) + (<usize>(this.madeFirst + i) << 3), v);
  }

  // @ts-ignore: decorator
  @inline
  putUint32(column: i32, i: i32, v: u32): void {
    store<u32>(this.output(column, Type.Uint32, i) + (<usize>(this.madeFirst + i) << 2), v);
  }

  putBool(column: i32, i: i32, v: bool): void {
    const data = this.output(column, Type.Bool, i), at = this.madeFirst + i;
    const byte = data + <usize>(at >> 3), mask: u8 = 1 << <u8>(at & 7);
    store<u8>(byte, v ? load<u8>(byte) | mask : load<u8>(byte) & ~mask);
  }

  /** A copy is kept. */
  putString(column: i32, i: i32, v: string): void {
    this.putText(column, Type.String, i, v);
  }

  putTag(column: i32, i: i32, v: string): void {
    this.putText(column, Type.Tag, i, v);
  }

  private putText(column: i32, type: Type, i: i32, v: string): void {
    const data = this.output(column, type, i), len = <u32>String.UTF8.byteLength(v);
    String.UTF8.encodeUnsafe(changetype<usize>(v), v.length, keep(column, len));
    store<u64>(data + (<usize>(this.madeFirst + i) << 3), wordOf(column, len));
  }

  /** The SDK's. */
  begin(first: i32, rows: i32, tagAt: usize, tagLen: u32, madeFirst: i32): void {
    this.first = first;
    this.rows = rows;
    this.tagAt = tagAt;
    this.tagLen = tagLen;
    this.madeFirst = madeFirst;
    this.made = emits ? 0 : rows;
  }

  // @ts-ignore: decorator
  @inline
  row(i: i32): i32 {
    if (<u32>i >= <u32>this.rows) noRow(this.rows);
    return this.first + i;
  }

  /** Marks the row as not null and returns where the column's data begin. */
  // @ts-ignore: decorator
  @inline
  output(column: i32, type: Type, i: i32): usize {
    if (outputTypes[column] != type) throw new Error("an output column is written by another type than it has");
    if (<u32>i >= <u32>this.made) throw new Error("the run has no such row to write to");
    setValid(column, this.madeFirst + i);
    return unchecked(outputData[column]);
  }
}

// ---- What follows is how it works; nothing in it is for you to call. ----

export const theRun = new Run();

// Of the batch at hand: where each input column's data begin (the first row's, bits apart), its
// validity (0: no nulls), the position of its first bit, and a text column's bytes.
export const inputTypes = new StaticArray<i32>(maxColumns).fill(-1);
export const dataAt = new StaticArray<usize>(maxColumns);
export const validAt = new StaticArray<usize>(maxColumns);
export const bitsFrom = new StaticArray<i32>(maxColumns);
export const bytesAt = new StaticArray<usize>(maxColumns);

function noRow(rows: i32): void {
  throw new Error(rows ? "the run has no such row" : "an input column is read in advance, where there is none");
}

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

// @ts-ignore: decorator
@inline
function setValid(column: i32, at: i32): void {
  const byte = unchecked(outputValid[column]) + <usize>(at >> 3);
  store<u8>(byte, load<u8>(byte) | (1 << <u8>(at & 7)));
}
