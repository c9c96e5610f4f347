#![no_std]

use penstock_operator::{export_emit, params, state, Column, Emit, Error, Operator, Output, Run, Type};

const TIME: usize = 0;
const VALUE: usize = 2;
const TEXT: usize = 3;
const QUALITY: usize = 4;
const FLAG: usize = 5;
const COUNT: usize = 6;

const INPUT: i64 = 1;
const OUTPUT: i64 = 2;
const ROW: i64 = 3;
const FAIL: i64 = 4;
const FORGET: i64 = 5;
const ORDER: i64 = 6;
const TWICE: i64 = 7;
const FLOOD: i64 = 8;
const LATE_INPUT: i64 = 9;
const LATE_FAIL: i64 = 10;

params! {
    struct Params { mode: i64 }
}

state! {
    struct State { rows: u32, due: u32 }
}

struct Relay {
    mode: i64,
}

impl Operator for Relay {
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
        Column::nullable("value", Type::Float64),
        Column::nullable("text", Type::String),
        Column::new("time", Type::Timestamp),
        Column::new("tag", Type::Tag),
        Column::new("quality", Type::Uint32),
        Column::nullable("flag", Type::Bool),
        Column::nullable("count", Type::Int64),
    ];
    type Params = Params;
    type State = State;

    fn open(p: Params) -> Result<Self, Error> {
        Ok(Relay { mode: p.mode })
    }

    fn run(&mut self, run: &Run, s: &mut State, out: &mut Output) -> Result<(), Error> {
        match self.mode {
            INPUT => drop(run.int64(VALUE)),
            FAIL => return Err(format_args!("no, {} today", "not").into()),
            _ => {}
        }
        while self.mode == FLOOD {
            let at = out.add_row();
            out.put_string(1, at, "more and more");
        }
        let (time, count, value, quality) = (run.timestamp(TIME), run.int64(COUNT), run.float64(VALUE), run.uint32(QUALITY));
        for i in 0..run.rows() {
            let copies = s.rows % 3;
            s.rows += 1;
            for left in (1..=copies).rev() {
                let at = out.add_row();
                match self.mode {
                    OUTPUT => out.put_int64(0, at, 1),
                    ROW => out.put_float64(0, at + 1, 1.0),
                    TWICE => out.put_tag(3, at, if s.rows % 2 == 0 { "b" } else { "a" }),
                    _ => {}
                }
                out.put_timestamp(2, at, if self.mode == ORDER { -time[i] - left as i64 } else { time[i] });
                if self.mode != FORGET {
                    out.put_uint32(4, at, quality[i]);
                }
                if !run.is_null(VALUE, i) {
                    out.put_float64(0, at, value[i]);
                }
                if !run.is_null(TEXT, i) {
                    out.put_string(1, at, run.string(TEXT, i));
                }
                if !run.is_null(FLAG, i) {
                    out.put_bool(5, at, run.bool(FLAG, i));
                }
                if !run.is_null(COUNT, i) {
                    out.put_int64(6, at, count[i]);
                }
            }
        }
        s.due = 1;
        Ok(())
    }
}

impl Emit for Relay {
    fn advance(&mut self, run: &Run, s: &mut State, watermark: i64, out: &mut Output) -> Result<(), Error> {
        match self.mode {
            LATE_INPUT => drop(run.float64(VALUE)),
            LATE_FAIL => return Err("no, not tonight".into()),
            _ => {}
        }
        if s.due == 0 {
            return Ok(());
        }
        s.due = 0;
        let (first, second) = (out.add_row(), out.add_row());
        let (tag, mut due) = (run.tag().as_bytes(), [0; 256]);
        due[..4].copy_from_slice(b"due/");
        due[4..4 + tag.len()].copy_from_slice(tag);
        out.put_tag(3, second, core::str::from_utf8(&due[..4 + tag.len()]).unwrap());
        out.put_timestamp(2, second, watermark + 1);
        out.put_timestamp(2, first, watermark);
        out.put_uint32(4, first, s.rows);
        out.put_uint32(4, second, 7);
        out.put_string(1, second, "");
        out.put_string(1, first, run.tag());
        Ok(())
    }
}

export_emit!(Relay);
