// The Arrow C Data Interface, as the host lays it out (wasm32).

@unmanaged
export class ArrowSchema {
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
export class ArrowArray {
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

export const nullable: i64 = 2;

export const none = memory.data(8); // an empty C string, and a buffer that is not there
const structFormat = memory.data<u8>([0x2b, 0x73, 0]); // "+s"

export function writeStructSchema(at: usize, children: usize, n: i32): void {
  memory.fill(at, 0, offsetof<ArrowSchema>());
  const s = changetype<ArrowSchema>(at);
  s.format = <u32>structFormat;
  s.name = <u32>none;
  s.nChildren = n;
  s.children = <u32>children;
}

/** Fills in an array that has no children; buffers is where their addresses are. */
export function writeArray(at: usize, rows: i32, nulls: i64, buffers: usize, n: i32): void {
  memory.fill(at, 0, offsetof<ArrowArray>());
  const a = changetype<ArrowArray>(at);
  a.length = rows;
  a.nullCount = nulls;
  a.nBuffers = n;
  a.buffers = <u32>buffers;
}
