package wasm

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock/penstock/pipeline"
)

// reasonQuarantine is that of batches which a module in quarantine did not see.
const reasonQuarantine = "module_quarantined"

// Calls whose failures are counted, each by itself.
const (
	callProcess = iota
	callAdvance
	callSnapshot
	numCalls
)

var callNames = [numCalls]string{"penstock_process", "penstock_advance", "penstock_snapshot"}

// amends is how many calls that are well make up for one that failed.
const amends = 10

// quarantine counts failures and says when there are too many: a module that fails
// at more than one call of amends+1 is found in the end, one that fails now and
// then is not. It is part of a snapshot: a replay goes the same way.
type quarantine struct {
	after       int           // failures; 0 is never
	debt        [numCalls]int // amends for a failure, less one for each call that was well
	all         int           // failures since it was opened; not in a snapshot
	quarantined bool
	why         string // it was put there
	gauge       prometheus.Gauge
}

func (q *quarantine) register(env pipeline.Env) error {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "penstock", Name: "module_quarantined",
		Help: "1 while a Wasm module is not called any more, because it failed too often or took too long."}, []string{"operator"})
	if err := register(env.Meter, &g); err != nil {
		return err
	}
	q.gauge = g.WithLabelValues(env.Name)
	q.gauge.Set(0)
	return nil
}

// well takes a call that did not fail.
func (q *quarantine) well(call int) { q.debt[call] = max(0, q.debt[call]-1) }

// count takes a failure and says whether it is the one too many.
func (q *quarantine) count(call int) bool {
	q.all++
	if q.after == 0 {
		return false
	}
	if q.debt[call] += amends; q.debt[call] <= (q.after-1)*amends {
		return false
	}
	q.set(true, "it failed too often")
	return true
}

func (q *quarantine) set(on bool, why string) {
	q.quarantined, q.why = on, why
	v := 0.0
	if on {
		v = 1
	}
	q.gauge.Set(v)
}

// Failures is how many calls failed since the module was opened.
// It may be called from the goroutine of the operator only.
func (op *Operator) Failures() int { return op.all }

// Quarantined says whether the module failed so often, or took so long,
// that it is not called any more; QuarantinedFor says for what. They may be called
// from the goroutine of the operator only.
func (op *Operator) Quarantined() bool { return op.quarantined }

func (op *Operator) QuarantinedFor() string { return op.why }
