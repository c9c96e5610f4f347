// The memory that the module shares with its host, in pages of its own beside
// those of AssemblyScript's runtime. Blocks are powers of two from 16 bytes,
// with a free list for each size; what lives as long as the module is carved off
// without rounding. Memory grows until the host's limit, then both return 0.

let heapAt: usize = 0;
let heapEnd: usize = 0;
const freeList = memory.data(32 * sizeof<usize>(), 16);
const largest: u32 = 1 << 30;

export function carve(size: u32, align: u32): usize {
  if (size > largest) return 0;
  let p = (heapAt + align - 1) & ~(<usize>align - 1);
  if (heapAt == 0 || p > heapEnd || heapEnd - p < size) {
    const pages = <i32>((size + align) >>> 16) + 1;
    let got = max(pages, 16);
    let from = memory.grow(got);
    if (from < 0) {
      got = pages;
      from = memory.grow(got);
      if (from < 0) return 0;
    }
    const start = <usize>from << 16;
    if (start != heapEnd) heapAt = start; // the runtime has grown meanwhile
    heapEnd = start + (<usize>got << 16);
    p = (heapAt + align - 1) & ~(<usize>align - 1);
  }
  heapAt = p + size;
  return p;
}

function sizeClass(size: u32): u32 {
  return size <= 16 ? 4 : 32 - clz(size - 1);
}

export function alloc(size: u32, align: u32): usize {
  if (size > largest || align > 64) return 0;
  const c = sizeClass(max(size, align)), head = freeList + c * sizeof<usize>(), p = load<usize>(head);
  if (p) {
    store<usize>(head, load<usize>(p));
    return p;
  }
  return carve(1 << c, c < 6 ? 1 << c : 64);
}

export function free(p: usize, size: u32, align: u32): void {
  if (!p || size > largest || align > 64) return;
  const head = freeList + sizeClass(max(size, align)) * sizeof<usize>();
  store<usize>(p, load<usize>(head));
  store<usize>(head, p);
}

/** A buffer that every call uses again and that grows to the largest. */
export class Buffer {
  at: usize = 0;
  cap: u32 = 0;

  /** Makes it hold n bytes: the first `keep` as they are, the others zero; false when out of memory. */
  extend(keep: u64, n: u64): bool {
    if (n > this.cap) {
      if (n > largest) return false;
      const cap: u32 = 1 << sizeClass(<u32>n), p = alloc(cap, 64);
      if (!p) return false;
      memory.copy(p, this.at, <usize>keep);
      free(this.at, this.cap, 64);
      this.at = p;
      this.cap = cap;
    }
    memory.fill(this.at + <usize>keep, 0, <usize>(n - keep));
    return true;
  }
}
