// Tags and their states, in the order in which they were first seen, and the
// snapshot of all of them.

import { alloc, Buffer, carve, free } from "./memory";

@unmanaged
export class Entry {
  next: usize; // of the same bucket
  state: usize;
  hash: u32;
  len: u32; // of the name, which follows
}

let list: usize = 0;
let buckets: usize = 0;
let cap: u32 = 0; // of both, a power of two
export let count: u32 = 0;
let stateSize: u32 = 0;
const bytes = new Buffer();

export const noMemory = "out of memory: raise the operator's memory limit or send it fewer tags";

// @ts-ignore: decorator
@inline
export function entry(i: u32): Entry {
  return changetype<Entry>(load<usize>(list + (<usize>i << 2)));
}

// @ts-ignore: decorator
@inline
export function name(t: Entry): usize {
  return changetype<usize>(t) + offsetof<Entry>();
}

// @ts-ignore: decorator
@inline
function padded(n: u32): u32 {
  return (n + 7) & ~7;
}

export function setStateSize(n: u32): void {
  stateSize = n;
}

function link(t: Entry): void {
  const b = buckets + (<usize>(t.hash & (cap - 1)) << 2);
  t.next = load<usize>(b);
  store<usize>(b, changetype<usize>(t));
}

function grow(): bool {
  const more: u32 = cap ? cap * 2 : 64, size = more << 2, newList = alloc(size, 64), newBuckets = alloc(size, 64);
  if (!newList || !newBuckets) return false;
  memory.copy(newList, list, count << 2);
  memory.fill(newBuckets, 0, size);
  free(list, cap << 2, 64);
  free(buckets, cap << 2, 64);
  list = newList;
  buckets = newBuckets;
  cap = more;
  for (let i: u32 = 0; i < count; i++) link(entry(i));
  return true;
}

/** The state of the tag, all zero if it is new, or 0 when out of memory. */
export function stateOf(text: usize, len: u32): usize {
  let hash: u32 = 2166136261;
  for (let i: u32 = 0; i < len; i++) hash = (hash ^ load<u8>(text + i)) * 16777619;
  if (cap) {
    let t = load<usize>(buckets + (<usize>(hash & (cap - 1)) << 2));
    while (t) {
      const e = changetype<Entry>(t);
      if (e.hash == hash && e.len == len && memory.compare(name(e), text, len) == 0) return e.state;
      t = e.next;
    }
  }
  if (count == cap && !grow()) return 0;
  const head = (<u32>offsetof<Entry>() + len + 15) & ~15, p = carve(head + stateSize, 16);
  if (!p) return 0;
  memory.fill(p, 0, head + stateSize);
  const e = changetype<Entry>(p);
  e.state = p + head;
  e.hash = hash;
  e.len = len;
  memory.copy(name(e), text, len);
  link(e);
  store<usize>(list + (<usize>count << 2), p);
  count++;
  return e.state;
}

const magic: u64 = 0x31544154534e4550; // "PENSTAT1"

/**
 * Writes a penstock_buf of the snapshot to out. A snapshot, little endian, the
 * same in every SDK: "PENSTAT1", the size of a state and the number of tags (4
 * bytes each); for each tag the length of its name (8 bytes), the name filled up
 * with zeros to 8 bytes, and its state, likewise. Returns null, or why it fails.
 */
export function snapshot(out: usize): string | null {
  let n: u64 = 16;
  for (let i: u32 = 0; i < count; i++) n += 8 + padded(entry(i).len) + padded(stateSize);
  if (!bytes.extend(0, n)) return noMemory;
  let p = bytes.at;
  store<u64>(p, magic);
  store<u32>(p, stateSize, 8);
  store<u32>(p, count, 12);
  p += 16;
  for (let i: u32 = 0; i < count; i++) {
    const e = entry(i);
    store<u64>(p, e.len);
    memory.copy(p + 8, name(e), e.len);
    p += 8 + padded(e.len);
    memory.copy(p, e.state, stateSize);
    p += padded(stateSize);
  }
  store<u32>(out, <u32>bytes.at);
  store<u32>(out, <u32>n, 4);
  return null;
}

export function restore(p: usize, len: u32): string | null {
  if (count) return "restore into a module that has tags already";
  if (len < 16 || load<u64>(p) != magic) return "the snapshot is not one of a module's states";
  if (load<u32>(p, 8) != stateSize) return "the snapshot's states have another size";
  const tags = load<u32>(p, 12), room = padded(stateSize);
  let left = len - 16;
  p += 16;
  for (let i: u32 = 0; i < tags; i++) {
    const size: u64 = left < 8 ? u64.MAX_VALUE : load<u64>(p);
    if (size > left || 8 + <u64>padded(<u32>size) + room > left) return "the snapshot ends in the middle of a tag";
    const state = stateOf(p + 8, <u32>size), skip = 8 + padded(<u32>size);
    if (!state) return noMemory;
    if (count != i + 1) return "the snapshot has a tag twice";
    memory.copy(state, p + skip, stateSize);
    p += skip + room;
    left -= skip + room;
  }
  return left ? "the snapshot has bytes left over" : null;
}
