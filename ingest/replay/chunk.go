package replay

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/pipeline"
)

const (
	// chunkRows is about how many rows are read ahead.
	chunkRows = 1024

	isNull   = 0
	isNumber = 1
	isText   = 2
)

// chunk is some rows of a file, by columns.
type chunk struct {
	tag     []ingest.TagID
	time    []int64 // as recorded, ns since 1970
	value   []float64
	quality []uint32
	kind    []uint8
	text    []byte
	textEnd []int32
}

func (c *chunk) len() int { return len(c.time) }

func (c *chunk) reset() {
	*c = chunk{tag: c.tag[:0], time: c.time[:0], value: c.value[:0], quality: c.quality[:0], kind: c.kind[:0], text: c.text[:0], textEnd: c.textEnd[:0]}
}

func (c *chunk) add(tag ingest.TagID, t int64, kind uint8, v float64, text string, q uint32) {
	c.tag = append(c.tag, tag)
	c.time = append(c.time, t)
	c.kind = append(c.kind, kind)
	c.value = append(c.value, v)
	c.text = append(c.text, text...)
	c.textEnd = append(c.textEnd, int32(len(c.text)))
	c.quality = append(c.quality, q)
}

func (c *chunk) textOf(row int) []byte {
	from := int32(0)
	if row > 0 {
		from = c.textEnd[row-1]
	}
	return c.text[from:c.textEnd[row]]
}

// layout says where a file has what; -1 is nowhere.
type layout struct {
	time, tag, value, text, quality int
	wide                            []wideColumn
	constant                        ingest.TagID // with tag -1
}

// wideColumn is a column of a wide file that holds the readings of one tag.
type wideColumn struct {
	index int
	tag   ingest.TagID
	kind  uint8 // isNumber or isText once a cell was seen
}

// layoutOf finds the configured columns among those of a file.
func (s *Source) layoutOf(file string, names []string) (layout, error) {
	find := func(name string) int {
		for i, n := range names {
			if name != "" && n == name {
				return i
			}
		}
		return -1
	}
	cols := s.cfg.Columns
	l := layout{time: find(cols.Time), tag: -1, value: -1, text: -1, quality: find(cols.Quality)}
	missing := func(name, key string) error {
		return fmt.Errorf("%s has no column %q; it has %s; set columns.%s", file, name, quoted(names), key)
	}
	if l.time < 0 {
		return l, missing(cols.Time, "time")
	}
	if s.cfg.Wide {
		for i, n := range names {
			if i == l.time || i == l.quality || n == "" {
				continue
			}
			tag := n
			if s.cfg.Tag != "" {
				tag = strings.ReplaceAll(s.cfg.Tag, "${column}", n)
			}
			l.wide = append(l.wide, wideColumn{index: i, tag: s.batcher.Tag(tag)})
		}
		if len(l.wide) == 0 {
			return l, fmt.Errorf("%s has no column beside the time", file)
		}
		return l, nil
	}
	l.value, l.text = find(cols.Value), find(cols.Text)
	if l.value < 0 && l.text < 0 {
		return l, missing(cols.Value, "value")
	}
	if l.tag = find(cols.Tag); l.tag < 0 {
		if s.cfg.Tag == "" {
			return l, missing(cols.Tag, "tag, or tag for files of a single one")
		}
		l.constant = s.batcher.Tag(s.cfg.Tag)
	}
	return l, nil
}

func quoted(names []string) string {
	q := make([]string, 0, len(names))
	for i, n := range names {
		if i == 20 {
			q = append(q, fmt.Sprintf("and %d more", len(names)-i))
			break
		}
		q = append(q, strconv.Quote(n))
	}
	return strings.Join(q, ", ")
}

// clock reads times.
type clock struct {
	unit   int64 // ns in one, of numbers; 0 goes by their size
	layout string
	loc    *time.Location
}

func newClock(format, zone string) (clock, error) {
	loc, err := time.LoadLocation(zone)
	c := clock{loc: loc}
	switch format {
	case "auto", "":
	case "s":
		c.unit = int64(time.Second)
	case "ms":
		c.unit = int64(time.Millisecond)
	case "us":
		c.unit = int64(time.Microsecond)
	case "ns":
		c.unit = 1
	default:
		c.layout = format
	}
	return c, err
}

// number turns a number since 1970 into ns. Without a unit its size tells:
// what would be before 1973 or after 5138 in one unit is in the next smaller.
func (c clock) number(v int64) (int64, error) {
	unit := c.unit
	if unit == 0 {
		switch a := max(v, -v); {
		case a < 1e11:
			unit = int64(time.Second)
		case a < 1e14:
			unit = int64(time.Millisecond)
		case a < 1e17:
			unit = int64(time.Microsecond)
		default:
			unit = 1
		}
	}
	if r := v * unit; r/unit == v {
		return r, nil
	}
	return 0, fmt.Errorf("time %d is beyond the year 2262", v)
}

// autoLayouts are tried in turn, with and without a zone.
var autoLayouts = [...]string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999", "2006-01-02"}

func (c clock) parse(s string) (int64, error) {
	s = strings.TrimSpace(s)
	if c.layout != "" {
		t, err := time.ParseInLocation(c.layout, s, c.loc)
		if err != nil {
			return 0, fmt.Errorf("time %s does not fit the layout %q", clip(s), c.layout)
		}
		return nanoseconds(t)
	}
	if whole, fraction, ok := strings.Cut(s, "."); ok || isDigits(whole) {
		v, err := strconv.ParseInt(whole, 10, 64)
		if err == nil && isDigits(fraction) {
			t, err := c.number(v)
			if err != nil || fraction == "" {
				return t, err
			}
			one, err := c.number(v + 1)
			if err != nil {
				return 0, err
			}
			f, err := strconv.ParseFloat("0."+fraction, 64)
			if err != nil {
				return 0, err
			}
			part := int64(f*float64(one-t) + 0.5)
			if strings.HasPrefix(whole, "-") {
				part = -part
			}
			return t + part, nil
		}
	}
	if c.unit == 0 {
		for _, l := range autoLayouts {
			if t, err := time.ParseInLocation(l, s, c.loc); err == nil {
				return nanoseconds(t)
			}
		}
	}
	return 0, fmt.Errorf("%s is not a time; set time_format", clip(s))
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			if i > 0 || s[i] != '-' || len(s) == 1 {
				return false
			}
		}
	}
	return true
}

func nanoseconds(t time.Time) (int64, error) {
	if y := t.Year(); y < 1678 || y > 2261 {
		return 0, fmt.Errorf("time %s is out of range", t)
	}
	return t.UnixNano(), nil
}

// quality reads a status code or the name of a severity.
func quality(s string) (uint32, error) {
	switch {
	case s == "" || strings.EqualFold(s, "good"):
		return pipeline.Good, nil
	case strings.EqualFold(s, "uncertain"):
		return pipeline.Uncertain, nil
	case strings.EqualFold(s, "bad"):
		return pipeline.Bad, nil
	}
	q, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%s is not a quality: Good, Uncertain, Bad or a status code", clip(s))
	}
	return uint32(q), nil
}

// value reads a number or a truth value.
func value(s string) (float64, bool) {
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return f, true
	}
	switch {
	case strings.EqualFold(s, "true"):
		return 1, true
	case strings.EqualFold(s, "false"):
		return 0, true
	}
	return 0, false
}

// isEmpty reports whether a cell says that there is no value.
func isEmpty(s string) bool {
	return s == "" || strings.EqualFold(s, "null")
}

func clip(s string) string {
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return strconv.Quote(s)
}
