// The exports of the ABI, for the operator in ../operator.ts. asc compiles this file.

import { inputs, open, outputs, Params, run, State } from "../operator";
import * as mem from "./memory";
import { bitsFrom, bytesAt, dataAt, inputTypes, maxColumns, outputData, outputTypes, outputValid, Run, Type, validAt } from "./penstock";
import * as tags from "./tags";

@unmanaged
class ArrowSchema {
  format: u32;
  name: u32;
  metadata: u32;
  flags: i64;
  nChildren: i64;
  children: u32;
  dictionary: u32;
  release: u32;
  privateData: u32;
}

@unmanaged
class ArrowArray {
  length: i64;
  nullCount: i64;
  offset: i64;
  nBuffers: i64;
  nChildren: i64;
  buffers: u32;
  children: u32;
  dictionary: u32;
  release: u32;
  privateData: u32;
}

const nullable: i64 = 2;

const errorText = memory.data(512);
let errorLen: u32 = 0;

function fail(why: string): i32 {
  errorLen = <u32>String.UTF8.encodeUnsafe(changetype<usize>(why), min(why.length, 170), errorText);
  return 1;
}

function status(why: string | null): i32 {
  const code = why ? fail(why) : 0;
  __collect();
  return code;
}

export function penstock_last_error(out: usize): i32 {
  store<u32>(out, <u32>errorText);
  store<u32>(out, errorLen, 4);
  return 0;
}

export function penstock_abi_version(): i32 {
  return 1;
}

export function penstock_alloc(size: u32, align: u32): usize {
  return mem.alloc(size, align);
}

export function penstock_free(p: usize, size: u32, align: u32): void {
  mem.free(p, size, align);
}

export function penstock_open(params: usize, len: u32): i32 {
  if (len != <u32>offsetof<Params>()) return fail("the parameters in the source are not as many as in the manifest");
  tags.setStateSize(<u32>offsetof<State>());
  return status(open(changetype<Params>(params)));
}

const formats: StaticArray<string> = ["tsn:UTC", "i", "g", "I", "u", "b", "l"];
const none = memory.data(8); // an empty C string
const structFormat = memory.data<u8>([0x2b, 0x73, 0]); // "+s"

const outSchemas = memory.data(48 * 64, 8);
const outArrays = memory.data(64 * 64, 8);
const outPointers = memory.data(8 * 64, 8);
const outList = memory.data(4 * 64, 8);
const outBuffers = new StaticArray<mem.Buffer>(2 * maxColumns);
let tagColumn: i32 = -1;

function cString(s: string): u32 {
  const b = String.UTF8.encode(s, true), p = mem.carve(b.byteLength, 1);
  memory.copy(p, changetype<usize>(b), b.byteLength);
  return <u32>p;
}

export function penstock_bind(input: usize, output: usize): i32 {
  return status(bind(changetype<ArrowSchema>(input), output));
}

function bind(input: ArrowSchema, output: usize): string | null {
  if (input.nChildren != inputs.length) return "the input columns in the source are not as many as in the manifest";
  tagColumn = -1;
  for (let i = 0; i < inputs.length; i++) {
    const c = inputs[i], s = changetype<ArrowSchema>(load<u32>(input.children + (i << 2)));
    if (!same(s.name, c.name) || !same(s.format, formats[c.type])) return "input column " + c.name + " has another name, type or place in the manifest";
    if ((s.flags & nullable) != 0 && !c.nullable) return "input column " + c.name + " may have nulls: the source does not call it nullable";
    if (c.type == Type.Tag) tagColumn = i;
    inputTypes[i] = c.type;
  }
  if (outputs.length > maxColumns) return "there are more output columns than the manifest may have";
  for (let i = 0; i < outputs.length; i++) {
    const c = outputs[i];
    if (c.type == Type.Tag || c.type == Type.String) return "output column " + c.name + " may not be a tag or a string";
    const s = changetype<ArrowSchema>(outSchemas + i * 48);
    s.format = cString(formats[c.type]);
    s.name = cString(c.name);
    s.flags = c.nullable ? nullable : 0;
    store<u32>(outList + (i << 2), <u32>changetype<usize>(s));
    outputTypes[i] = c.type;
    outBuffers[2 * i] = new mem.Buffer();
    outBuffers[2 * i + 1] = new mem.Buffer();
  }
  memory.fill(output, 0, offsetof<ArrowSchema>());
  const out = changetype<ArrowSchema>(output);
  out.format = <u32>structFormat;
  out.name = <u32>none;
  out.nChildren = outputs.length;
  out.children = <u32>outList;
  return null;
}

function same(cstr: u32, s: string): bool {
  let n: u32 = 0;
  while (load<u8>(cstr + n)) n++;
  return String.UTF8.decodeUnsafe(cstr, n) == s;
}

const theRun = new Run();

export function penstock_process(input: usize, output: usize): i32 {
  return status(process(changetype<ArrowArray>(input), output));
}

function buffer(a: ArrowArray, i: i32): u32 {
  return load<u32>(a.buffers + (i << 2));
}

function process(input: ArrowArray, output: usize): string | null {
  if (input.nChildren != inputs.length || input.offset != 0 || input.length < 0 || input.length > i32.MAX_VALUE) return "the batch is not as it was bound";
  const n = <i32>input.length;
  for (let i = 0; i < inputs.length; i++) {
    const a = changetype<ArrowArray>(load<u32>(input.children + (i << 2))), offset = <i32>a.offset;
    let width: usize = 8;
    switch (inputTypes[i]) {
      case Type.Bool: { width = 0; break; }
      case Type.Tag:
      case Type.String:
      case Type.Uint32: { width = 4; break; }
    }
    dataAt[i] = <usize>buffer(a, 1) + <usize>offset * width;
    validAt[i] = buffer(a, 0);
    bitsFrom[i] = offset;
    bytesAt[i] = inputTypes[i] == Type.String ? <usize>buffer(a, 2) : 0;
  }
  for (let i = 0; i < outputs.length; i++) {
    const c = outputs[i], data = outBuffers[2 * i], valid = outBuffers[2 * i + 1];
    const bits = (<u64>n + 63) / 64 * 8;
    if (!data.zeroed(c.type == Type.Bool ? bits : <u64>n * (c.type == Type.Uint32 ? 4 : 8)) || !valid.zeroed(bits)) return tags.noMemory;
    outputData[i] = data.at;
    outputValid[i] = valid.at;
    const pointers = outPointers + i * 8;
    store<u32>(pointers, c.nullable ? <u32>valid.at : 0);
    store<u32>(pointers, <u32>data.at, 4);
    const a = changetype<ArrowArray>(outArrays + i * 64);
    a.length = n;
    a.nullCount = c.nullable ? -1 : 0;
    a.nBuffers = 2;
    a.buffers = <u32>pointers;
    store<u32>(outList + (i << 2), <u32>changetype<usize>(a));
  }
  memory.fill(output, 0, offsetof<ArrowArray>());
  const out = changetype<ArrowArray>(output);
  out.length = n;
  out.nBuffers = 1;
  out.buffers = <u32>none;
  out.nChildren = outputs.length;
  out.children = <u32>outList;

  let index: usize = 0, ends: usize = 0, names: usize = 0;
  if (tagColumn >= 0) {
    const dictionary = changetype<ArrowArray>(changetype<ArrowArray>(load<u32>(input.children + (tagColumn << 2))).dictionary);
    index = dataAt[tagColumn];
    ends = <usize>buffer(dictionary, 1) + (<usize>dictionary.offset << 2);
    names = buffer(dictionary, 2);
  }
  let at = 0;
  while (at < n) {
    theRun.first = at;
    theRun.rows = n - at;
    if (index) {
      const first = index + (<usize>at << 2), k = load<i32>(first);
      let rows = 1;
      while (at + rows < n && load<i32>(first + (<usize>rows << 2)) == k) rows++;
      const name = ends + (<usize>k << 2), from = load<u32>(name);
      theRun.rows = rows;
      theRun.tagAt = names + from;
      theRun.tagLen = load<u32>(name, 4) - from;
    }
    const state = tags.stateOf(theRun.tagAt, theRun.tagLen);
    if (!state) return tags.noMemory;
    const why = run(theRun, changetype<State>(state));
    if (why) return why;
    at += theRun.rows;
  }
  return null;
}

export function penstock_snapshot(out: usize): i32 {
  return status(tags.snapshot(out));
}

export function penstock_restore(p: usize, len: u32): i32 {
  return status(tags.restore(p, len));
}
