// How calls end.

export const errorText = memory.data(512);
export let errorLen: u32 = 0;

export function fail(why: string): i32 {
  errorLen = <u32>String.UTF8.encodeUnsafe(changetype<usize>(why), min(why.length, 170), errorText);
  return 1;
}

/** The status of a call that failed for a reason, or did not, and has left garbage. */
export function status(why: string | null): i32 {
  const code = why ? fail(why) : 0;
  __collect();
  return code;
}
