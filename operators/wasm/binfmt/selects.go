package binfmt

// selectAt is a select in a body: where it begins and ends, and the type it
// selects from.
type selectAt struct {
	from, to int
	of       byte
}

// WithoutFloatSelect writes every select of two floats as one of two integers
// with the same bits, and one of two vectors as v128.bitselect. The code has
// passed Parse; it may have been rewritten since.
//
// wazero 1.12.0 on amd64 may give the first value for the second (its issue
// 2534): the register that holds the second counts as free while the first is
// loaded. It needs no more than a value that was a call's argument before.
func WithoutFloatSelect(code []byte) ([]byte, error) {
	secs, err := split(code)
	if err != nil {
		return nil, err
	}
	o, err := parse(secs, true)
	if err != nil {
		return nil, err
	}
	var bodies []byte
	count, mended := uint32(0), false
	err = o.Functions(nil, func(f *Function) {
		body := f.Body
		if b := f.rewriteSelects(); b != nil {
			body, mended = b, true
		}
		bodies = append(AppendU32(bodies, uint32(len(body))), body...)
		count++
	})
	if err != nil || !mended {
		return code, err
	}
	out := make([]byte, 0, len(code)+len(code)/16)
	out = append(out, Magic...)
	for _, s := range secs {
		if s.ID != SecCode {
			out = append(out, code[s.Start:s.End]...)
			continue
		}
		head := AppendU32(nil, count)
		out = AppendU32(append(out, SecCode), uint32(len(head)+len(bodies)))
		out = append(append(out, head...), bodies...)
	}
	return out, nil
}

// rewriteSelects returns the body with its selects of floats written anew, or
// nil when it has none.
func (f *Function) rewriteSelects() []byte {
	var code []byte
	done := 0
	for _, sel := range f.selects {
		var with []byte
		// Three more locals: the condition, and the second value in each size.
		cond, wide, narrow := uint32(f.Locals), uint32(f.Locals+1), uint32(f.Locals+2)
		switch sel.of {
		case F64:
			with = selectBits(cond, wide, 0xbd, 0xbf)
		case F32:
			with = selectBits(cond, narrow, 0xbc, 0xbe)
		case V128, floats:
			// The condition as a mask: 0 - (it is not 0), in both halves.
			with = []byte{0x45, 0xad, 0x42, 1, 0x7d, 0xfd, 18, 0xfd, 82}
		default:
			continue
		}
		code = append(append(code, f.Body[max(done, f.Code):sel.from]...), with...)
		done = sel.to
	}
	if done == 0 {
		return nil
	}
	r := reader{b: f.Body[:f.Code]}
	r.u32() // how many groups of locals there are
	out := append(AppendU32(nil, uint32(f.Groups+3)), r.b...)
	out = append(out, 1, I32, 1, I64, 1, I32)
	return append(append(out, code...), f.Body[done:]...)
}

// selectBits is select by way of integers; toBits and fromBits are the
// instructions that reinterpret.
func selectBits(cond, second uint32, toBits, fromBits byte) []byte {
	b := AppendU32([]byte{0x21}, cond)
	b = AppendU32(append(b, toBits, 0x21), second)
	b = AppendU32(append(b, toBits, 0x20), second)
	b = AppendU32(append(b, 0x20), cond)
	return append(b, 0x1b, fromBits)
}
