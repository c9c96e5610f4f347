package wasm

import (
	"fmt"
	"sync"
	"time"
)

// reasonDeadline is that of a call which took longer than the clock allows.
const reasonDeadline = "module_deadline"

// patience is how long at most a call that is too late may take to come back all
// the same.
const patience = 5 * time.Second

// deadline is the last resort against a call that does not come back: what is
// metered is stopped by its fuel long before. Nothing can end native code from
// outside, so the one who is told has to get on without the goroutine that is in
// it. A clock is not the same in a replay: who is told keeps a record, and gives
// the module up at the same call then (see [Operator.GiveUp]).
type deadline struct {
	after time.Duration // 0 is never

	mu    sync.Mutex
	late  func(call string) // told when a call takes too long; nil is nobody
	stuck func(call string) // and when it has not come back some time after
	call  string            // at hand, "" is none
	looks int               // since it began: a process that stood still has not looked
	over  bool              // late was told of the call at hand
	gone  bool              // nobody waits for it any more
	timer *time.Timer

	given bool // up: the next call fails; by the operator's goroutine only
}

// watch begins to look at the clock, until close.
func (d *deadline) watch() {
	if d.after <= 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer == nil {
		d.timer = time.AfterFunc(d.period(), d.look)
	}
}

// period is how often the clock is looked at.
func (d *deadline) period() time.Duration { return min(d.after/4, time.Second) }

func (d *deadline) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer == nil {
		return
	}
	if d.call != "" && d.late != nil && !d.gone {
		d.looks++
		if took := time.Duration(d.looks-1) * d.period(); !d.over && took >= d.after {
			d.over = true
			d.late(d.call) // the call cannot come back meanwhile
		} else if took >= d.after+min(d.after, patience) && d.stuck != nil {
			d.gone = true
			d.stuck(d.call)
		}
	}
	d.timer.Reset(d.period())
}

// close ends watch and reports whether a goroutine is in a call for good.
func (d *deadline) close() (gone bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	return d.gone
}

// leave gives up the call that is over, if it is still at hand.
func (d *deadline) leave() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = d.call != "" && d.over
	return d.gone
}

// begin says that a call begins; end that it is back, and whether in time.
func (d *deadline) begin(call string) {
	d.mu.Lock()
	d.call, d.looks, d.over = call, 0, false
	d.mu.Unlock()
}

func (d *deadline) end() error {
	d.mu.Lock()
	if d.gone { // nobody waits for this goroutine, and what it used is others' now
		d.mu.Unlock()
		select {}
	}
	defer d.mu.Unlock()
	call := d.call
	d.call = ""
	if !d.over {
		return nil
	}
	return d.error(call)
}

func (d *deadline) error(call string) error {
	return &guestError{reason: reasonDeadline, fatal: true, after: d.after, err: fmt.Errorf("%s: it takes longer than %v: if it needs more, raise deadline", call, d.after)}
}

// Deadline is how long a call may take; 0 is for ever.
func (op *Operator) Deadline() time.Duration { return op.deadline.after }

// Watch says who is told of a call that takes longer than the deadline: such a
// call fails when it comes back, and is the module's last one. stuck, which may be
// nil, is told of one that has not come back some seconds later: then it never
// does, and the operator is good for Close only. Both are called on another
// goroutine, one at a time, and may be replaced between two calls. Without late no
// call is late.
func (op *Operator) Watch(late, stuck func(call string)) {
	op.deadline.mu.Lock()
	defer op.deadline.mu.Unlock()
	op.deadline.late, op.deadline.stuck = late, stuck
}

// Guarded runs f, which calls the operator, on another goroutine. When a call into
// the module takes too long, whoever watches is told, and f is left to itself, with
// the guest: it never returns, and the operator has none then.
func (op *Operator) Guarded(f func() error) error {
	d := op.deadline
	if d.after <= 0 {
		return f()
	}
	d.mu.Lock()
	late, stuck := d.late, d.stuck
	d.mu.Unlock()
	random, watermark := op.host.random, op.host.watermark
	tooLate, done := make(chan string, 1), make(chan error, 1)
	op.Watch(func(call string) {
		if late != nil {
			late(call)
		}
		select {
		case tooLate <- call:
		default: // the second one of f
		}
	}, nil)
	defer op.Watch(late, stuck)
	go func() { done <- f() }()
	for {
		select {
		case err := <-done:
			return err
		case call := <-tooLate:
			if !d.leave() { // it has just come back
				continue
			}
			// The guest goes on with the host that it knows.
			module, _ := op.Module()
			h, err := newHost(op.env, module, random)
			if err != nil {
				return err
			}
			h.watermark = watermark
			op.host, op.guest = h, nil
			return d.error(call)
		}
	}
}

// GiveUp lets the next Process, Advance or Snapshot fail without a call, as the
// one that an earlier run did not get back from.
func (op *Operator) GiveUp() { op.deadline.given = true }

// givenUp returns the failure that GiveUp asked for.
func (op *Operator) givenUp(call string) error {
	if !op.deadline.given {
		return nil
	}
	op.deadline.given = false
	return op.deadline.error(call)
}
