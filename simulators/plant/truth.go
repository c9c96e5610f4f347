package plant

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FaultRecord is the ground truth of one fault.
type FaultRecord struct {
	ID       string     `json:"id"`
	Kind     Kind       `json:"kind"`
	Asset    string     `json:"asset"`
	Tags     []string   `json:"tags"` // that it disturbs
	Start    time.Time  `json:"start"`
	End      *time.Time `json:"end,omitempty"` // nil: not repaired yet
	Severity float64    `json:"severity"`
}

// Truth returns the faults that have started, in the order in which they did.
// The end of one that is still there is not known yet.
func (p *Plant) Truth() []FaultRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	records := []FaultRecord{}
	for _, f := range p.faults {
		if f.Start.Seconds() > p.now {
			continue
		}
		r := FaultRecord{ID: f.ID, Kind: f.Kind, Asset: f.Asset, Tags: f.Tags, Start: p.cfg.Start.Add(f.Start).UTC(), Severity: f.Severity}
		if f.End > 0 && f.End.Seconds() <= p.now {
			end := p.cfg.Start.Add(f.End).UTC()
			r.End = &end
		}
		records = append(records, r)
	}
	slices.SortStableFunc(records, func(a, b FaultRecord) int { return a.Start.Compare(b.Start) })
	return records
}

// WriteJSON writes the records as a JSON array.
func WriteJSON(w io.Writer, records []FaultRecord) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(records)
}

// WriteCSV writes the records with a header; tags are separated by spaces.
func WriteCSV(w io.Writer, records []FaultRecord) error {
	c := csv.NewWriter(w)
	rows := [][]string{{"id", "kind", "asset", "tags", "start", "end", "severity"}}
	for _, r := range records {
		end := ""
		if r.End != nil {
			end = r.End.Format(time.RFC3339Nano)
		}
		rows = append(rows, []string{r.ID, string(r.Kind), r.Asset, strings.Join(r.Tags, " "),
			r.Start.Format(time.RFC3339Nano), end, strconv.FormatFloat(r.Severity, 'g', 4, 64)})
	}
	return c.WriteAll(rows)
}
