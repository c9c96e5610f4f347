package console

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/penstock/penstock/pipeline"
)

// appendText writes "12:30:01.250 node tag name=value …": the time in UTC, the
// quality as a word, nulls left out.
func appendText(b []byte, node string, rec arrow.Record, cols []int, row int) []byte {
	start := len(b)
	var rest []byte
	for _, i := range cols {
		c, name := rec.Column(i), rec.ColumnName(i)
		if c.IsNull(row) {
			continue
		}
		switch {
		case name == pipeline.NameTime:
			if ts, ok := c.(*array.Timestamp); ok {
				b = timeAt(ts, row).AppendFormat(b, "15:04:05.000")
				b = append(b, ' ')
				continue
			}
		case name == pipeline.NameTag:
			if s, ok := stringAt(c, row); ok {
				rest = append(rest, clean(s)...)
				rest = append(rest, ' ')
				continue
			}
		case name == pipeline.NameQuality:
			if q, ok := c.(*array.Uint32); ok {
				rest = append(rest, "quality="...)
				rest = appendQuality(rest, q.Value(row))
				rest = append(rest, ' ')
				continue
			}
		}
		rest = append(rest, name...)
		rest = append(rest, '=')
		switch c := c.(type) {
		case *array.Float64:
			rest = strconv.AppendFloat(rest, c.Value(row), 'g', 6, 64)
		case *array.Timestamp:
			rest = timeAt(c, row).AppendFormat(rest, "15:04:05.000")
		default:
			if s, ok := stringAt(c, row); ok {
				rest = strconv.AppendQuote(rest, s)
			} else {
				rest = append(rest, clean(c.ValueStr(row))...)
			}
		}
		rest = append(rest, ' ')
	}
	if node != "" {
		b = append(b, node...)
		b = append(b, ' ')
	}
	b = append(b, rest...)
	if len(b) > start {
		b = b[:len(b)-1] // the last space
	}
	return append(b, '\n')
}

func appendQuality(b []byte, q uint32) []byte {
	switch {
	case q == pipeline.Good:
		return append(b, "Good"...)
	case pipeline.IsGood(q):
		return fmt.Appendf(b, "Good(0x%08X)", q)
	case pipeline.IsUncertain(q):
		return fmt.Appendf(b, "Uncertain(0x%08X)", q)
	default:
		return fmt.Appendf(b, "Bad(0x%08X)", q)
	}
}

// clean takes the control characters out, so that a tag's name cannot drive
// the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '�'
		}
		return r
	}, s)
}

// appendJSON writes one object: node, then the columns; times as RFC 3339 in
// UTC, NaN and infinities, which JSON has not, as null.
func appendJSON(b []byte, node string, rec arrow.Record, cols []int, row int) []byte {
	b = append(b, '{')
	if node != "" {
		b = append(appendJSONString(append(b, `"node":`...), node), ',')
	}
	for _, i := range cols {
		c := rec.Column(i)
		b = append(appendJSONString(b, rec.ColumnName(i)), ':')
		b = append(appendJSONValue(b, c, row), ',')
	}
	if b[len(b)-1] == ',' {
		b = b[:len(b)-1]
	}
	return append(b, '}', '\n')
}

func appendJSONValue(b []byte, c arrow.Array, row int) []byte {
	if c.IsNull(row) {
		return append(b, "null"...)
	}
	switch c := c.(type) {
	case *array.Float64:
		if v := c.Value(row); !math.IsNaN(v) && !math.IsInf(v, 0) {
			return strconv.AppendFloat(b, v, 'g', -1, 64)
		}
		return append(b, "null"...)
	case *array.Timestamp:
		return append(timeAt(c, row).AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
	}
	if s, ok := stringAt(c, row); ok {
		return appendJSONString(b, s)
	}
	v, err := json.Marshal(c.GetOneForMarshal(row))
	if err != nil { // such as a NaN in a list
		return append(b, "null"...)
	}
	return append(b, v...)
}

func appendJSONString(b []byte, s string) []byte {
	v, _ := json.Marshal(s) // a string always has JSON
	return append(b, v...)
}

func timeAt(c *array.Timestamp, row int) time.Time {
	return c.Value(row).ToTime(c.DataType().(*arrow.TimestampType).Unit)
}
