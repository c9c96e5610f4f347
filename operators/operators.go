// Package operators holds the operators of the flow, one package each. All of
// them implement [pipeline.Operator]: they see batches, event time and
// watermarks, never the wall clock, and the same calls give the same bytes.
//
//   - filter keeps the rows for which an expression is true.
//   - window makes event-time aggregates per tag.
//   - align makes a wide frame: one row per time and asset, one column per
//     measurement.
//   - wasm runs a vectorized kernel in a WebAssembly engine.
//
// Alert rules, which are operators too, live in sinks/alert.
package operators
