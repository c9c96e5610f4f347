#![no_std]

use penstock_operator::{export_map, params, state, Column, Error, Operator, Output, Run, Type};

const TIME: usize = 0;
const VALUE: usize = 2;
const TEXT: usize = 3;
const QUALITY: usize = 4;
const FLAG: usize = 5;
const COUNT: usize = 6;

params! {
    struct Params { n: i64, on: bool, wait: f64, mode: i64, label: &'static str }
}

state! {
    struct State { last: [f64; 3], rows: u32, unused: u32 }
}

struct Mirror {
    p: Params,
}

impl Operator for Mirror {
    const INPUT: &'static [Column] = &[
        Column::new("time", Type::Timestamp),
        Column::new("tag", Type::Tag),
        Column::nullable("value", Type::Float64),
        Column::nullable("text", Type::String),
        Column::new("quality", Type::Uint32),
        Column::nullable("flag", Type::Bool),
        Column::nullable("count", Type::Int64),
    ];
    const OUTPUT: &'static [Column] = &[
        Column::new("time_out", Type::Timestamp),
        Column::nullable("value_out", Type::Float64),
        Column::nullable("size", Type::Int64),
        Column::new("quality_out", Type::Uint32),
        Column::nullable("flag_out", Type::Bool),
        Column::new("on_out", Type::Bool),
        Column::nullable("count_out", Type::Int64),
        Column::new("params", Type::Float64),
        Column::new("before", Type::Float64),
        Column::nullable("text_out", Type::String),
        Column::new("label", Type::String),
    ];
    type Params = Params;
    type State = State;

    fn open(p: Params) -> Result<Self, Error> {
        Ok(Mirror { p })
    }

    fn run(&mut self, run: &Run, s: &mut State, out: &mut Output) -> Result<(), Error> {
        let p = &self.p;
        let label = p.label.as_bytes();
        let sum = p.n as f64 + p.on as u8 as f64 * 10.0 + p.wait * 100.0 + label.len() as f64 * 10000.0 + label[1] as f64;
        let (time, count, value, quality) = (run.timestamp(TIME), run.int64(COUNT), run.float64(VALUE), run.uint32(QUALITY));
        match p.mode {
            1 => drop(run.int64(VALUE)),
            2 => out.put_int64(1, 0, 1),
            3 => out.put_float64(1, run.rows(), 1.0),
            4 => return Err(format_args!("no, {} today", "not").into()),
            5 => drop(out.add_row()),
            _ => {}
        }
        for i in (0..run.rows()).rev() {
            if !run.is_null(TEXT, i) {
                out.put_string(9, i, "gone");
                out.put_string(9, i, run.string(TEXT, i));
            }
            if i % 2 == 0 {
                out.put_string(10, i, run.tag());
            }
        }
        for i in 0..run.rows() {
            out.put_timestamp(0, i, time[i] + 1);
            if !run.is_null(VALUE, i) {
                out.put_float64(1, i, value[i]);
            }
            if !run.is_null(TEXT, i) {
                out.put_int64(2, i, run.string(TEXT, i).len() as i64 + run.tag().len() as i64 * 1000);
            }
            if i % 2 == 0 {
                out.put_uint32(3, i, quality[i]);
            }
            if !run.is_null(FLAG, i) {
                out.put_bool(4, i, run.bool(FLAG, i));
            }
            out.put_bool(5, i, !p.on);
            out.put_bool(5, i, p.on);
            if !run.is_null(COUNT, i) {
                out.put_int64(6, i, count[i]);
            }
            out.put_float64(7, i, sum);
            let at = s.rows as usize % 3;
            out.put_float64(8, i, s.last[at]);
            s.last[at] = time[i] as f64;
            s.rows += 1;
        }
        Ok(())
    }
}

export_map!(Mirror);
