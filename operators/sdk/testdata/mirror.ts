import { Column, Run, text, Type } from "./sdk/penstock";

export const inputs: StaticArray<Column> = [
  new Column("time", Type.Timestamp),
  new Column("tag", Type.Tag),
  new Column("value", Type.Float64, true),
  new Column("text", Type.String, true),
  new Column("quality", Type.Uint32),
  new Column("flag", Type.Bool, true),
  new Column("count", Type.Int64, true),
];

export const outputs: StaticArray<Column> = [
  new Column("time_out", Type.Timestamp),
  new Column("value_out", Type.Float64, true),
  new Column("size", Type.Int64, true),
  new Column("quality_out", Type.Uint32),
  new Column("flag_out", Type.Bool, true),
  new Column("on_out", Type.Bool),
  new Column("count_out", Type.Int64, true),
  new Column("params", Type.Float64),
  new Column("before", Type.Float64),
  new Column("text_out", Type.String, true),
  new Column("label", Type.String),
];

@unmanaged
export class Params {
  n: f64;
  on: f64;
  wait: f64;
  mode: f64;
  label: u64;
}

@unmanaged
export class State {
  last0: f64;
  last1: f64;
  last2: f64;
  rows: u32;
  unused: u32;
}

let sum: f64, mode: i32, on: bool;

export function open(p: Params): string | null {
  const label = text(p.label), bytes = String.UTF8.encode(label);
  sum = p.n + p.on * 10 + p.wait * 100 + <f64>bytes.byteLength * 10000 + <f64>load<u8>(changetype<usize>(bytes), 1);
  mode = <i32>p.mode;
  on = p.on != 0;
  return null;
}

export function run(run: Run, s: State): string | null {
  switch (mode) {
    case 1: { run.int64(2, 0); break; }
    case 2: { run.putInt64(1, 0, 1); break; }
    case 3: { run.putFloat64(1, run.rows, 1); break; }
    case 4: return "no, " + ["not"].join("") + " today";
    case 5: { run.addRow(); break; }
  }
  for (let i = run.rows - 1; i >= 0; i--) {
    if (!run.isNull(3, i)) {
      run.putString(9, i, "gone");
      run.putString(9, i, run.string(3, i));
    }
    if (i % 2 == 0) run.putString(10, i, run.tag());
  }
  const tag = String.UTF8.byteLength(run.tag());
  for (let i = 0; i < run.rows; i++) {
    const time = run.timestamp(0, i);
    run.putTimestamp(0, i, time + 1);
    if (!run.isNull(2, i)) run.putFloat64(1, i, run.float64(2, i));
    if (!run.isNull(3, i)) run.putInt64(2, i, String.UTF8.byteLength(run.string(3, i)) + tag * 1000);
    if (i % 2 == 0) run.putUint32(3, i, run.uint32(4, i));
    if (!run.isNull(5, i)) run.putBool(4, i, run.bool(5, i));
    run.putBool(5, i, !on);
    run.putBool(5, i, on);
    if (!run.isNull(6, i)) run.putInt64(6, i, run.int64(6, i));
    run.putFloat64(7, i, sum);
    const last = changetype<usize>(s) + ((s.rows % 3) << 3);
    run.putFloat64(8, i, load<f64>(last));
    store<f64>(last, <f64>time);
    s.rows++;
  }
  return null;
}
