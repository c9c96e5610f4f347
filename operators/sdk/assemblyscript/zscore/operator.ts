// zscore: how far a reading lies from what its tag mostly reads, in standard
// deviations. Mean and variance are exponentially weighted, per tag.

import { Column, isBad, Run, Type } from "./sdk/penstock";

// Columns and parameters are those of manifest.json, in its order.
export const inputs: StaticArray<Column> = [
  new Column("time", Type.Timestamp),
  new Column("tag", Type.Tag),
  new Column("value", Type.Float64, true),
  new Column("quality", Type.Uint32),
];
const VALUE = 2;
const QUALITY = 3;

export const outputs: StaticArray<Column> = [new Column("score", Type.Float64, true), new Column("flag", Type.Bool, true)];
const SCORE = 0;
const FLAG = 1;

@unmanaged
export class Params {
  alpha: f64;
  threshold: f64;
  warmup: f64;
}

@unmanaged
export class State {
  mean: f64;
  variance: f64;
  count: i64;
}

let alpha: f64, threshold: f64, warmup: f64;

export function open(p: Params): string | null {
  alpha = p.alpha;
  threshold = p.threshold;
  warmup = p.warmup;
  return alpha > 0 && alpha <= 1 ? null : "alpha must be above 0 and at most 1";
}

export function run(run: Run, s: State): string | null {
  for (let i = 0; i < run.rows; i++) {
    if (run.isNull(VALUE, i) || isBad(run.uint32(QUALITY, i))) continue;
    const x = run.float64(VALUE, i);
    if (!(x > -1e150 && x < 1e150)) continue; // also not a number: squares must not overflow
    const d = x - s.mean;
    if (<f64>s.count >= warmup && s.variance > 0) {
      const score = d / Math.sqrt(s.variance);
      run.putFloat64(SCORE, i, score);
      run.putBool(FLAG, i, score > threshold || score < -threshold);
    }
    if (s.count == 0) {
      s.mean = x;
    } else {
      const step = alpha * d;
      s.mean = s.mean + step;
      s.variance = (1 - alpha) * (s.variance + step * d);
    }
    s.count++;
  }
  return null;
}
