package wasm

import "runtime"

// mend returns the code as the engine is to compile it: the same computation,
// without what the engine is known to compile wrongly and Penstock can say in
// another way.
func mend(engine string, code []byte) ([]byte, error) {
	if engine == EngineWazero && runtime.GOARCH == "amd64" {
		return withoutFloatSelect(code)
	}
	return code, nil
}

// withoutFloatSelect writes every select of two floats as one of two integers
// with the same bits, and one of two vectors as v128.bitselect.
//
// wazero 1.12.0 on amd64 may give the first value for the second (its issue
// 2534): the register that holds the second counts as free while the first is
// loaded. It needs no more than a value that was a call's argument before.
func withoutFloatSelect(code []byte) ([]byte, error) {
	o, err := parse(code)
	if err != nil {
		return nil, err
	}
	var bodies []byte
	count, mended := uint32(0), false
	err = o.bodies(func(_ uint32, s *scan, body []byte) {
		if b := rewriteSelects(s, body); b != nil {
			body, mended = b, true
		}
		bodies = append(appendU32(bodies, uint32(len(body))), body...)
		count++
	})
	if err != nil || !mended {
		return code, err
	}
	secs, err := sections(code)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(code)+len(code)/16)
	out = append(out, magic...)
	for _, s := range secs {
		if s.id != secCode {
			out = append(out, code[s.start:s.end]...)
			continue
		}
		head := appendU32(nil, count)
		out = appendU32(append(out, secCode), uint32(len(head)+len(bodies)))
		out = append(append(out, head...), bodies...)
	}
	return out, nil
}

// rewriteSelects returns the body with its selects of floats written anew, or
// nil when it has none.
func rewriteSelects(s *scan, body []byte) []byte {
	var out []byte
	done := 0
	for _, sel := range s.selects {
		var with []byte
		// Three more locals: the condition, and the second value in each size.
		cond, wide, narrow := uint32(len(s.locals)), uint32(len(s.locals)+1), uint32(len(s.locals)+2)
		switch sel.of {
		case tF64:
			with = selectBits(cond, wide, 0xbd, 0xbf)
		case tF32:
			with = selectBits(cond, narrow, 0xbc, 0xbe)
		case tV128, floats:
			// The condition as a mask: 0 - (it is not 0), in both halves.
			with = []byte{0x45, 0xad, 0x42, 1, 0x7d, 0xfd, 18, 0xfd, 82}
		default:
			continue
		}
		out = append(append(out, body[done:sel.from]...), with...)
		done = sel.to
	}
	if done == 0 {
		return nil
	}
	out = append(out, body[done:]...)
	// The locals stand first.
	r := reader{b: out}
	groups := r.u32()
	return append(appendLocals(nil, groups, &r), r.b...)
}

// appendLocals copies the groups of locals that r stands before, and adds those
// of rewriteSelects.
func appendLocals(b []byte, groups uint32, r *reader) []byte {
	b = appendU32(b, groups+3)
	for range groups {
		n := r.u32()
		b = append(appendU32(b, n), r.byte())
	}
	return append(b, 1, tI32, 1, tI64, 1, tI32)
}

// selectBits is select by way of integers; toBits and fromBits are the
// instructions that reinterpret.
func selectBits(cond, second uint32, toBits, fromBits byte) []byte {
	b := appendU32([]byte{0x21}, cond)
	b = appendU32(append(b, toBits, 0x21), second)
	b = appendU32(append(b, toBits, 0x20), second)
	b = appendU32(append(b, 0x20), cond)
	return append(b, 0x1b, fromBits)
}
