package decode

import (
	"math"
	"strconv"
	"time"
)

// noTime marks a reading that is dropped for want of a time.
const noTime = math.MinInt64

var (
	firstTime = time.Unix(0, math.MinInt64+1)
	lastTime  = time.Unix(0, math.MaxInt64)
)

// time returns the time in ns since 1970 that t holds, or what time_missing
// says, which is noTime for "drop".
func (d *Decoder) time(t token, received int64) (int64, error) {
	switch {
	case d.cfg.Time == "":
		return received, nil
	case t.kind == absent || t.kind == null:
		if d.cfg.TimeMissing == "drop" {
			return noTime, nil
		}
		return received, nil
	case t.kind == number && d.numTime, t.kind == text && d.unit != 0:
		if t.kind == text && !isNumber(d.view(t)) {
			break
		}
		ns, ok := parseUnix(d.view(t), d.unit)
		if !ok {
			return 0, errAt(int(t.start), "expected a time between 1677 and 2262 at %q (time_format %s), found %.40s", d.cfg.Time, d.cfg.TimeFormat, d.view(t))
		}
		return ns, nil
	case t.kind == text && d.strTime:
		at, err := time.Parse(time.RFC3339Nano, d.view(t))
		if err != nil {
			break
		}
		if at.Before(firstTime) || at.After(lastTime) {
			return 0, errAt(int(t.start), "expected a time between 1677 and 2262 at %q, found %.40s", d.cfg.Time, d.view(t))
		}
		return at.UnixNano(), nil
	}
	want := "a number of " + d.cfg.TimeFormat + " since 1970"
	switch d.cfg.TimeFormat {
	case "rfc3339":
		want = "a time like 2026-01-31T12:00:00.5Z"
	case "auto":
		want = "a number since 1970 or a time like 2026-01-31T12:00:00.5Z"
	}
	return 0, errAt(int(t.start), "expected %s at %q, found %s %.40s", want, d.cfg.Time, t.kind, d.view(t))
}

func isNumber(s string) bool {
	if s == "" {
		return false
	}
	sc := scanner{data: []byte(s)}
	if c := s[0]; c != '-' && (c < '0' || c > '9') {
		return false
	}
	end, err := sc.number(0)
	return err == nil && end == len(s)
}

// parseUnix reads a JSON number as a time in units of unit ns since 1970, or,
// when unit is 0, in the unit that its size suggests. Digits are taken as
// they stand, without a detour over floating point; what is finer than a
// nanosecond is cut off.
func parseUnix(s string, unit int64) (int64, bool) {
	digits, negative := s, false
	if digits[0] == '-' {
		digits, negative = digits[1:], true
	}
	var whole, frac int64
	i := 0
	for ; i < len(digits) && digits[i] >= '0' && digits[i] <= '9'; i++ {
		if whole > (math.MaxInt64-9)/10 {
			return 0, false
		}
		whole = whole*10 + int64(digits[i]-'0')
	}
	if i < len(digits) && digits[i] == '.' {
		i++
		scale := int64(1e8)
		for ; i < len(digits) && digits[i] >= '0' && digits[i] <= '9'; i++ {
			frac += int64(digits[i]-'0') * scale
			scale /= 10
		}
	}
	if i < len(digits) { // an exponent
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return 0, false
		}
		if unit == 0 {
			unit = unitOf(math.Abs(f))
		}
		f = math.Round(f * float64(unit))
		if math.Abs(f) >= math.MaxInt64 {
			return 0, false
		}
		return int64(f), true
	}
	if unit == 0 {
		unit = unitOf(float64(whole))
	}
	if whole > (math.MaxInt64-1e9)/unit {
		return 0, false
	}
	ns := whole*unit + frac*unit/1e9
	if negative {
		ns = -ns
	}
	return ns, true
}

func unitOf(n float64) int64 {
	switch {
	case n < 1e11:
		return 1e9
	case n < 1e14:
		return 1e6
	case n < 1e17:
		return 1e3
	}
	return 1
}
