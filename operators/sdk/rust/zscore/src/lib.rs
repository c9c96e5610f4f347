//! zscore: how far a reading lies from what its tag mostly reads, in standard
//! deviations. Mean and variance are exponentially weighted, per tag.
#![no_std]

use penstock_operator::{export_map, is_bad, params, sqrt, state, Column, Error, Operator, Output, Run, Type};

// Columns and parameters are those of manifest.json, in its order.
const VALUE: usize = 2;
const QUALITY: usize = 3;

const SCORE: usize = 0;
const FLAG: usize = 1;

params! {
    struct Params { alpha: f64, threshold: f64, warmup: i64 }
}

state! {
    struct State { mean: f64, variance: f64, count: i64 }
}

struct Detector {
    params: Params,
}

impl Operator for Detector {
    const INPUT: &'static [Column] = &[
        Column::new("time", Type::Timestamp),
        Column::new("tag", Type::Tag),
        Column::nullable("value", Type::Float64),
        Column::new("quality", Type::Uint32),
    ];
    const OUTPUT: &'static [Column] = &[Column::nullable("score", Type::Float64), Column::nullable("flag", Type::Bool)];
    type Params = Params;
    type State = State;

    fn open(params: Params) -> Result<Self, Error> {
        if !(params.alpha > 0.0 && params.alpha <= 1.0) {
            return Err("alpha must be above 0 and at most 1".into());
        }
        Ok(Detector { params })
    }

    fn run(&mut self, run: &Run, s: &mut State, out: &mut Output) -> Result<(), Error> {
        let p = &self.params;
        let quality = run.uint32(QUALITY);
        for (i, &x) in run.float64(VALUE).iter().enumerate() {
            if run.is_null(VALUE, i) || is_bad(quality[i]) {
                continue;
            }
            if !(x > -1e150 && x < 1e150) {
                continue; // also not a number: squares must not overflow
            }
            let d = x - s.mean;
            if s.count >= p.warmup && s.variance > 0.0 {
                let score = d / sqrt(s.variance);
                out.put_float64(SCORE, i, score);
                out.put_bool(FLAG, i, score > p.threshold || score < -p.threshold);
            }
            if s.count == 0 {
                s.mean = x;
            } else {
                let step = p.alpha * d;
                s.mean = s.mean + step;
                s.variance = (1.0 - p.alpha) * (s.variance + step * d);
            }
            s.count += 1;
        }
        Ok(())
    }
}

export_map!(Detector);
