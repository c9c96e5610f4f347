import { Column, Run, Type } from "./sdk/penstock";

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
  new Column("value", Type.Float64, true),
  new Column("text", Type.String, true),
  new Column("time", Type.Timestamp),
  new Column("tag", Type.Tag),
  new Column("quality", Type.Uint32),
  new Column("flag", Type.Bool, true),
  new Column("count", Type.Int64, true),
];

enum Mode { Right, Input, Output, Row, Fail, Forget, Order, Twice, Flood, LateInput, LateFail }

@unmanaged
export class Params {
  mode: f64;
}

@unmanaged
export class State {
  rows: u32;
  due: u32;
}

let mode: i32;

export function open(p: Params): string | null {
  mode = <i32>p.mode;
  return null;
}

export function run(run: Run, s: State): string | null {
  if (mode == Mode.Input) run.int64(2, 0);
  if (mode == Mode.Fail) return "no, not today";
  while (mode == Mode.Flood) run.putString(1, run.addRow(), "more and more");
  for (let i = 0; i < run.rows; i++) {
    const time = run.timestamp(0, i);
    for (let copies = s.rows++ % 3; copies > 0; copies--) {
      const at = run.addRow();
      if (mode == Mode.Output) run.putInt64(0, at, 1);
      if (mode == Mode.Row) run.putFloat64(0, at + 1, 1);
      if (mode == Mode.Twice) run.putTag(3, at, s.rows % 2 ? "a" : "b");
      run.putTimestamp(2, at, mode == Mode.Order ? -time - copies : time);
      if (mode != Mode.Forget) run.putUint32(4, at, run.uint32(4, i));
      if (!run.isNull(2, i)) run.putFloat64(0, at, run.float64(2, i));
      if (!run.isNull(3, i)) run.putString(1, at, run.string(3, i));
      if (!run.isNull(5, i)) run.putBool(5, at, run.bool(5, i));
      if (!run.isNull(6, i)) run.putInt64(6, at, run.int64(6, i));
    }
  }
  s.due = 1;
  return null;
}

export function advance(run: Run, s: State, watermark: i64): string | null {
  if (mode == Mode.LateInput) run.string(3, 0);
  if (mode == Mode.LateFail) return "no, not tonight";
  if (!s.due) return null;
  s.due = 0;
  const first = run.addRow(), second = run.addRow();
  run.putTag(3, second, "due/" + run.tag());
  run.putTimestamp(2, second, watermark + 1);
  run.putTimestamp(2, first, watermark);
  run.putUint32(4, first, s.rows);
  run.putUint32(4, second, 7);
  run.putString(1, second, "");
  run.putString(1, first, run.tag());
  return null;
}
