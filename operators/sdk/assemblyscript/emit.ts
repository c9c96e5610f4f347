// The exports of the ABI, for the operator in ../operator.ts that makes rows of
// its own (kind "emit"). asc compiles this file.

import { advance, State } from "../operator";
import { begin, finish, makesRows } from "./output";
import { theRun } from "./penstock";
import { status } from "./status";
import * as tags from "./tags";

export * from "./exports";

makesRows();

export function penstock_advance(watermark: i64, output: usize): i32 {
  return status(advanceTo(watermark, output));
}

function advanceTo(watermark: i64, output: usize): string | null {
  begin();
  let made = 0;
  for (let i: u32 = 0; i < tags.count; i++) {
    const t = tags.entry(i);
    theRun.begin(0, 0, tags.name(t), t.len, made);
    const why = advance(theRun, changetype<State>(t.state), watermark);
    if (why) return why;
    made += theRun.made;
  }
  return finish(made, output);
}
