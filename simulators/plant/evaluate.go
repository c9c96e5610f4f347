package plant

import (
	"slices"
	"time"
)

// Alert is a raised alert, as far as it is judged.
type Alert struct {
	Rule, Asset, Tag string
	Raised           time.Time
}

// FaultResult says whether a fault was found, and how soon.
type FaultResult struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	Asset    string    `json:"asset"`
	Start    time.Time `json:"start"`
	Detected bool      `json:"detected"`
	// DelayS is from the fault's start to the first alert on its asset or on a
	// tag it disturbs, in seconds; absent when there was none.
	DelayS *float64 `json:"delay_s,omitempty"`
}

// Grace is how long after the end of a fault an alert may still be due to it:
// the machine returns to normal, which detectors see as a change, and on-delays
// and windows take their time.
const Grace = 30 * time.Second

// Evaluate judges alerts by the truth. An alert belongs to a fault when it is
// on the fault's asset or on a tag that the fault disturbs, and was raised
// between the fault's start and its end plus [Grace]. falseAlarms counts
// alerts that belong to none.
func Evaluate(truth []FaultRecord, alerts []Alert) (results []FaultResult, falseAlarms int) {
	results = make([]FaultResult, len(truth))
	for i, f := range truth {
		results[i] = FaultResult{ID: f.ID, Kind: string(f.Kind), Asset: f.Asset, Start: f.Start}
	}
	for _, a := range alerts {
		explained := false
		for i := range truth {
			if !truth[i].explains(a) {
				continue
			}
			explained = true
			r := &results[i]
			if delay := a.Raised.Sub(r.Start).Seconds(); r.DelayS == nil || delay < *r.DelayS {
				r.Detected, r.DelayS = true, &delay
			}
		}
		if !explained {
			falseAlarms++
		}
	}
	return results, falseAlarms
}

// explains reports whether the fault can have caused the alert.
func (r *FaultRecord) explains(a Alert) bool {
	if a.Raised.Before(r.Start) || r.End != nil && a.Raised.After(r.End.Add(Grace)) {
		return false
	}
	return a.Asset == r.Asset || slices.Contains(r.Tags, a.Tag)
}
