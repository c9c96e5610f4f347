//! summary: what each tag's readings were in each window of time. A window is
//! closed by the watermark, or by the tag's first reading of a later one.
#![no_std]

use penstock_operator::{export_emit, is_bad, params, state, Column, Emit, Error, Operator, Output, Run, Type};

// Columns and parameters are those of manifest.json, in its order.
const TIME: usize = 0;
const VALUE: usize = 2;
const QUALITY: usize = 3;

const END: usize = 0;
const COUNT: usize = 2;
const MEAN: usize = 3;
const MIN: usize = 4;
const MAX: usize = 5;
const LATE: usize = 6;
const CONDITION: usize = 7;

params! {
    struct Params { window: f64, low: f64, high: f64 }
}

// start is that of the window, or the first that the next may have.
state! {
    struct State { sum: f64, min: f64, max: f64, start: i64, rows: i64, count: i64, late: i64 }
}

struct Windows {
    window: i64, // ns
    low: f64,
    high: f64,
}

impl Windows {
    fn condition(&self, s: &State) -> &'static str {
        if s.count == 0 {
            "no data"
        } else if s.max > self.high {
            "high"
        } else if s.min < self.low {
            "low"
        } else {
            "normal"
        }
    }

    fn close(&self, s: &mut State, out: &mut Output) {
        let (i, end) = (out.add_row(), s.start + self.window);
        out.put_timestamp(END, i, end);
        out.put_int64(COUNT, i, s.count);
        if s.count > 0 {
            out.put_float64(MEAN, i, s.sum / s.count as f64);
            out.put_float64(MIN, i, s.min);
            out.put_float64(MAX, i, s.max);
        }
        out.put_int64(LATE, i, s.late);
        out.put_string(CONDITION, i, self.condition(s));
        *s = State { sum: 0.0, min: 0.0, max: 0.0, start: end, rows: 0, count: 0, late: 0 };
    }
}

impl Operator for Windows {
    const INPUT: &'static [Column] = &[
        Column::new("time", Type::Timestamp),
        Column::new("tag", Type::Tag),
        Column::nullable("value", Type::Float64),
        Column::new("quality", Type::Uint32),
    ];
    const OUTPUT: &'static [Column] = &[
        Column::new("time", Type::Timestamp),
        Column::new("tag", Type::Tag),
        Column::new("count", Type::Int64),
        Column::nullable("mean", Type::Float64),
        Column::nullable("min", Type::Float64),
        Column::nullable("max", Type::Float64),
        Column::new("late", Type::Int64),
        Column::new("condition", Type::String),
    ];
    type Params = Params;
    type State = State;

    fn open(p: Params) -> Result<Self, Error> {
        if p.low > p.high {
            return Err("low must not be above high".into());
        }
        Ok(Windows { window: (p.window * 1e9) as i64, low: p.low, high: p.high })
    }

    fn run(&mut self, run: &Run, s: &mut State, out: &mut Output) -> Result<(), Error> {
        let (value, quality) = (run.float64(VALUE), run.uint32(QUALITY));
        for (i, &t) in run.timestamp(TIME).iter().enumerate() {
            if t < s.start {
                s.late += 1;
                continue;
            }
            if s.rows > 0 && t - s.start >= self.window {
                self.close(s, out);
            }
            if s.rows == 0 {
                s.start = t - t % self.window;
            }
            s.rows += 1;
            let x = value[i];
            if run.is_null(VALUE, i) || is_bad(quality[i]) {
                continue;
            }
            if !(x > -1e150 && x < 1e150) {
                continue; // also not a number
            }
            if s.count == 0 || x < s.min {
                s.min = x;
            }
            if s.count == 0 || x > s.max {
                s.max = x;
            }
            s.sum += x;
            s.count += 1;
        }
        Ok(())
    }
}

impl Emit for Windows {
    fn advance(&mut self, _: &Run, s: &mut State, watermark: i64, out: &mut Output) -> Result<(), Error> {
        if s.rows > 0 && watermark - s.start >= self.window {
            self.close(s, out);
        }
        Ok(())
    }
}

export_emit!(Windows);
