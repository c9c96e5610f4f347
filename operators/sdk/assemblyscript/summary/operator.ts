// summary: what each tag's readings were in each window of time. A window is
// closed by the watermark, or by the tag's first reading of a later one.

import { Column, isBad, Run, Type } from "./sdk/penstock";

// Columns and parameters are those of manifest.json, in its order.
export const inputs: StaticArray<Column> = [
  new Column("time", Type.Timestamp),
  new Column("tag", Type.Tag),
  new Column("value", Type.Float64, true),
  new Column("quality", Type.Uint32),
];
const TIME = 0;
const VALUE = 2;
const QUALITY = 3;

export const outputs: StaticArray<Column> = [
  new Column("time", Type.Timestamp),
  new Column("tag", Type.Tag),
  new Column("count", Type.Int64),
  new Column("mean", Type.Float64, true),
  new Column("min", Type.Float64, true),
  new Column("max", Type.Float64, true),
  new Column("late", Type.Int64),
  new Column("condition", Type.String),
];
const END = 0;
const COUNT = 2;
const MEAN = 3;
const MIN = 4;
const MAX = 5;
const LATE = 6;
const CONDITION = 7;

@unmanaged
export class Params {
  window: f64;
  low: f64;
  high: f64;
}

@unmanaged
export class State {
  sum: f64;
  min: f64;
  max: f64;
  start: i64; // of the window, or the first that the next may have
  rows: i64;
  count: i64;
  late: i64;
}

let window: i64, low: f64, high: f64;

export function open(p: Params): string | null {
  if (p.low > p.high) return "low must not be above high";
  window = <i64>(p.window * 1e9);
  low = p.low;
  high = p.high;
  return null;
}

function condition(s: State): string {
  if (s.count == 0) return "no data";
  if (s.max > high) return "high";
  return s.min < low ? "low" : "normal";
}

function close(run: Run, s: State): void {
  const i = run.addRow(), end = s.start + window;
  run.putTimestamp(END, i, end);
  run.putInt64(COUNT, i, s.count);
  if (s.count > 0) {
    run.putFloat64(MEAN, i, s.sum / <f64>s.count);
    run.putFloat64(MIN, i, s.min);
    run.putFloat64(MAX, i, s.max);
  }
  run.putInt64(LATE, i, s.late);
  run.putString(CONDITION, i, condition(s));
  s.sum = s.min = s.max = 0;
  s.start = end;
  s.rows = s.count = s.late = 0;
}

export function run(run: Run, s: State): string | null {
  for (let i = 0; i < run.rows; i++) {
    const t = run.timestamp(TIME, i);
    if (t < s.start) {
      s.late++;
      continue;
    }
    if (s.rows > 0 && t - s.start >= window) close(run, s);
    if (s.rows == 0) s.start = t - (t % window);
    s.rows++;
    if (run.isNull(VALUE, i) || isBad(run.uint32(QUALITY, i))) continue;
    const x = run.float64(VALUE, i);
    if (!(x > -1e150 && x < 1e150)) continue; // also not a number
    if (s.count == 0 || x < s.min) s.min = x;
    if (s.count == 0 || x > s.max) s.max = x;
    s.sum += x;
    s.count++;
  }
  return null;
}

export function advance(run: Run, s: State, watermark: i64): string | null {
  if (s.rows > 0 && watermark - s.start >= window) close(run, s);
  return null;
}
