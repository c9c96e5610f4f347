// The columns that a call makes. Every call uses the same memory again.

import { ArrowArray, ArrowSchema, none, nullable, writeArray, writeStructSchema } from "./arrow";
import { Column, Type } from "./column";
import { Buffer, carve } from "./memory";
import { noMemory } from "./tags";

/** The manifest's limit of columns. */
export const maxColumns = 64;

/**
 * A text or tag stands in data as where it begins in put and its length (4
 * bytes each), until finish.
 */
class OutColumn {
  type: Type = Type.Float64;
  nullable: bool = false;
  data: Buffer = new Buffer();
  valid: Buffer = new Buffer();
  put: Buffer = new Buffer();
  putLen: u32 = 0;
  text: Buffer = new Buffer();

  constructor(public name: string) {}

  /** Appends to the texts that are handed out; false when out of memory. */
  append(end: u32, word: u64): bool {
    const len = <u32>(word >> 32);
    if (!this.text.extend(end, <u64>end + len)) return false;
    memory.copy(this.text.at + end, this.put.at + <u32>word, len);
    return true;
  }

  /** Makes offsets of data, in its place: row i's 4 bytes are no further than the 8 that were read. */
  finishTexts(rows: i32): bool {
    const at = this.data.at;
    let end: u32 = 0;
    for (let i = 0; i < rows; i++) {
      const word = load<u64>(at + (<usize>i << 3));
      if (!this.append(end, word)) return false;
      end += <u32>(word >> 32);
      if (i == 0) store<u32>(at, 0);
      store<u32>(at + (<usize>i << 2), end, 4);
    }
    return true;
  }

  /** Likewise makes the numbers of runs, and a dictionary of that many texts; -1 when out of memory. */
  finishTags(rows: i32): i32 {
    const at = this.data.at;
    let runs = 0, end: u32 = 0, last: u64 = 0;
    if (!ends.extend(0, 4)) return -1;
    for (let i = 0; i < rows; i++) {
      const word = load<u64>(at + (<usize>i << 3));
      if (i == 0 || (word != last && !this.same(word, last))) {
        if (!this.append(end, word) || !ends.extend(4 * (<u64>runs + 1), 4 * (<u64>runs + 2))) return -1;
        end += <u32>(word >> 32);
        runs++;
        store<u32>(ends.at + (<usize>runs << 2), end);
      }
      last = word;
      store<i32>(at + (<usize>i << 2), runs - 1);
    }
    return runs;
  }

  private same(a: u64, b: u64): bool {
    return a >> 32 == b >> 32 && memory.compare(this.put.at + <u32>a, this.put.at + <u32>b, <usize>(a >> 32)) == 0;
  }
}

const columns: OutColumn[] = [];
const schemas = memory.data(48 * maxColumns, 8);
const arrays = memory.data(64 * maxColumns, 8);
const pointers = memory.data(12 * maxColumns, 8);
const list = memory.data(4 * maxColumns, 8);
const dictionary = memory.data(64, 8);
const dictionaryBuffers = memory.data(12, 8);
const ends = new Buffer(); // of the texts of the tags' dictionary
let room = 0; // for so many rows, all zero until they are written

export let emits = false;
/** The output column of tags; -1: none. */
export let outTag = -1;
// For puts: the columns' types, and where their data and validity begin.
export const outputTypes = new StaticArray<i32>(maxColumns).fill(-1);
export const outputData = new StaticArray<usize>(maxColumns);
export const outputValid = new StaticArray<usize>(maxColumns);

/** Says that the operator is of the kind "emit". */
export function makesRows(): void {
  emits = true;
}

function cString(s: string): u32 {
  const b = String.UTF8.encode(s, true), p = carve(b.byteLength, 1);
  memory.copy(p, changetype<usize>(b), b.byteLength);
  return <u32>p;
}

export function bindOutputs(outputs: StaticArray<Column>, formats: StaticArray<string>, to: usize): string | null {
  if (outputs.length > maxColumns) return "there are more output columns than the manifest may have";
  for (let i = 0; i < outputs.length; i++) {
    const c = outputs[i];
    if (c.type == Type.Tag) {
      if (!emits) return "output column " + c.name + " may not be a tag: a map operator's rows have theirs";
      outTag = i;
    }
    const s = changetype<ArrowSchema>(schemas + i * 48);
    s.format = cString(formats[c.type]);
    s.name = cString(c.name);
    s.flags = c.nullable ? nullable : 0;
    store<u32>(list + (i << 2), <u32>changetype<usize>(s));
    const o = new OutColumn(c.name);
    o.type = c.type;
    o.nullable = c.nullable;
    columns.push(o);
    outputTypes[i] = c.type;
  }
  writeStructSchema(to, list, outputs.length);
  return null;
}

/** Begins a call that makes rows. */
export function begin(): void {
  room = 0;
  for (let i = 0; i < columns.length; i++) columns[i].putLen = 0;
}

function bitBytes(rows: i32): u64 {
  return (<u64>rows + 63) / 64 * 8;
}

function dataBytes(type: Type, rows: i32): u64 {
  return type == Type.Bool ? bitBytes(rows) : <u64>rows * (type == Type.Uint32 ? 4 : 8);
}

/** False when out of memory. */
export function makeRoom(rows: i32): bool {
  for (let i = 0; i < columns.length; i++) {
    const o = columns[i];
    if (!o.data.extend(dataBytes(o.type, room), dataBytes(o.type, rows)) || !o.valid.extend(bitBytes(room), bitBytes(rows))) return false;
    outputData[i] = o.data.at;
    outputValid[i] = o.valid.at;
  }
  room = rows;
  return true;
}

/** Makes room for the row if there is none. */
export function needRow(row: i32): void {
  if (row == room && !makeRoom(max(64, 2 * row))) throw new Error(noMemory);
}

/** Makes len bytes of room for a text, and returns where. wordOf says how it stands in data. */
export function keep(column: i32, len: u32): usize {
  const o = columns[column], from = o.putLen;
  if (!o.put.extend(from, <u64>from + len)) throw new Error(noMemory);
  o.putLen += len;
  return o.put.at + from;
}

/** How the newest text, of len bytes, stands in data. */
export function wordOf(column: i32, len: u32): u64 {
  return <u64>(columns[column].putLen - len) | (<u64>len << 32);
}

/** Hands out the rows that the call made. Returns null, or why it fails. */
export function finish(rows: i32, to: usize): string | null {
  if (rows == 0 && emits) return null;
  for (let i = 0; i < columns.length; i++) {
    const o = columns[i], valid = o.valid.at, p = pointers + i * 12, a = arrays + i * 64;
    if (emits && !o.nullable) {
      for (let row = 0; row < rows; row++) {
        if (!((load<u8>(valid + (row >> 3)) >> <u8>(row & 7)) & 1)) return "output column " + o.name + " has no value in a row, and is not nullable";
      }
    }
    writeArray(a, rows, o.nullable ? -1 : 0, p, o.type == Type.String ? 3 : 2);
    if (o.type == Type.String && !o.finishTexts(rows)) return noMemory;
    if (o.type == Type.Tag) {
      const runs = o.finishTags(rows);
      if (runs < 0) return noMemory;
      store<u32>(dictionaryBuffers, <u32>ends.at, 4);
      store<u32>(dictionaryBuffers, <u32>o.text.at, 8);
      writeArray(dictionary, runs, 0, dictionaryBuffers, 3);
      changetype<ArrowArray>(a).dictionary = <u32>dictionary;
    }
    store<u32>(p, o.nullable ? <u32>valid : 0);
    store<u32>(p, <u32>o.data.at, 4);
    store<u32>(p, <u32>o.text.at, 8);
    store<u32>(list + (i << 2), <u32>a);
  }
  writeArray(to, rows, 0, none, 1);
  const out = changetype<ArrowArray>(to);
  out.nChildren = columns.length;
  out.children = <u32>list;
  return null;
}
