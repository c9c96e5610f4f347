package app

import (
	"strings"
	"sync"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/penstock/penstock/pipeline"
)

// Alert is one alert as the summary and the page show it.
type Alert struct {
	ID       string     `json:"id"`
	Rule     string     `json:"rule"`
	Asset    string     `json:"asset"`
	Tag      string     `json:"tag"`
	Severity string     `json:"severity"`
	Raised   time.Time  `json:"raised"`
	Cleared  *time.Time `json:"cleared,omitempty"`
	Message  string     `json:"-"`
	Value    float64    `json:"-"`
}

// maxAlerts bounds what an AlertBook remembers; the oldest go first.
const maxAlerts = 10_000

// AlertBook remembers the alerts of this run. Safe for concurrent use.
type AlertBook struct {
	mu   sync.Mutex
	byID map[string]int
	list []Alert
	base int // how many were forgotten: list[i] has number base+i
}

// Take notes the rows of a record of alert events; any other is passed over.
// A replay that shows an event again changes nothing.
func (b *AlertBook) Take(rec arrow.Record) {
	if !rec.Schema().Equal(pipeline.AlertEvents) {
		return
	}
	str := func(name string) *array.String {
		return rec.Column(pipeline.Column(rec.Schema(), name)).(*array.String)
	}
	id, rule, asset, sev, state, msg := str("id"), str("rule"), str("asset"), str("severity"), str("state"), str("message")
	times := rec.Column(0).(*array.Timestamp)
	tags := rec.Column(1).(*array.Dictionary)
	names := tags.Dictionary().(*array.String)
	values := rec.Column(pipeline.Column(rec.Schema(), pipeline.NameValue)).(*array.Float64)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byID == nil {
		b.byID = map[string]int{}
	}
	for i := range int(rec.NumRows()) {
		at := time.Unix(0, int64(times.Value(i))).UTC()
		n, known := b.byID[id.Value(i)]
		if state.Value(i) == "raised" {
			if known {
				continue
			}
			key := strings.Clone(id.Value(i))
			b.byID[key] = b.base + len(b.list)
			b.list = append(b.list, Alert{ID: key, Rule: strings.Clone(rule.Value(i)), Asset: strings.Clone(asset.Value(i)), Tag: strings.Clone(names.Value(tags.GetValueIndex(i))),
				Severity: strings.Clone(sev.Value(i)), Raised: at, Message: strings.Clone(msg.Value(i)), Value: values.Value(i)})
			if len(b.list) > maxAlerts {
				delete(b.byID, b.list[0].ID)
				b.list = b.list[1:]
				b.base++
			}
		} else if known && b.list[n-b.base].Cleared == nil {
			b.list[n-b.base].Cleared = &at
		}
	}
}

// All returns the alerts in the order they were raised.
func (b *AlertBook) All() []Alert {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Alert{}, b.list...)
}
