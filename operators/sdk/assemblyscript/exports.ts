// The exports of the ABI, for the operator in ../operator.ts. asc compiles this
// file, or emit.ts, which has one more.

import { inputs, open, outputs, Params, run, State } from "../operator";
import { ArrowArray, ArrowSchema, nullable } from "./arrow";
import * as mem from "./memory";
import { begin, bindOutputs, emits, finish, makeRoom } from "./output";
import { bitsFrom, bytesAt, dataAt, inputTypes, theRun, Type, validAt } from "./penstock";
import { errorLen, errorText, fail, status } from "./status";
import * as tags from "./tags";

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
let tagColumn: i32 = -1;

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
    if (c.type == Type.Tag) {
      tagColumn = i;
      theRun.hasTag = true;
    }
    inputTypes[i] = c.type;
  }
  return bindOutputs(outputs, formats, output);
}

function same(cstr: u32, s: string): bool {
  let n: u32 = 0;
  while (load<u8>(cstr + n)) n++;
  return String.UTF8.decodeUnsafe(cstr, n) == s;
}

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
  begin();
  if (!emits && !makeRoom(n)) return tags.noMemory;

  let index: usize = 0, ends: usize = 0, names: usize = 0;
  if (tagColumn >= 0) {
    const dictionary = changetype<ArrowArray>(changetype<ArrowArray>(load<u32>(input.children + (tagColumn << 2))).dictionary);
    index = dataAt[tagColumn];
    ends = <usize>buffer(dictionary, 1) + (<usize>dictionary.offset << 2);
    names = buffer(dictionary, 2);
  }
  let at = 0, made = 0;
  while (at < n) {
    let rows = n - at, tagAt: usize = 0, tagLen: u32 = 0;
    if (index) {
      const first = index + (<usize>at << 2), k = load<i32>(first);
      rows = 1;
      while (at + rows < n && load<i32>(first + (<usize>rows << 2)) == k) rows++;
      const name = ends + (<usize>k << 2), from = load<u32>(name);
      tagAt = names + from;
      tagLen = load<u32>(name, 4) - from;
    }
    const state = tags.stateOf(tagAt, tagLen);
    if (!state) return tags.noMemory;
    theRun.begin(at, rows, tagAt, tagLen, made);
    const why = run(theRun, changetype<State>(state));
    if (why) return why;
    at += rows;
    made += theRun.made;
  }
  return finish(made, output);
}

export function penstock_snapshot(out: usize): i32 {
  return status(tags.snapshot(out));
}

export function penstock_restore(p: usize, len: u32): i32 {
  return status(tags.restore(p, len));
}
