package wasm

import (
	"fmt"
	"sync"
	"time"
)

// reasonDeadline is that of a call which took longer than the clock allows.
const reasonDeadline = "module_deadline"

// patience is how long a call that is too late may take to come back all the same.
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
	since time.Time
	over  bool // late was told of the call at hand
	gone  bool // stuck was
	timer *time.Timer

	given bool // up: the next call on a batch fails; by the operator's goroutine only
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
	if took := time.Since(d.since); d.call != "" && d.late != nil {
		if !d.over && took >= d.after {
			d.over = true
			d.late(d.call) // the call cannot come back meanwhile
		}
		if !d.gone && took >= d.after+patience && d.stuck != nil {
			d.gone = true
			d.stuck(d.call)
		}
	}
	d.timer.Reset(d.period())
}

func (d *deadline) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// trySend sends if somebody may yet receive.
func trySend[T any](c chan<- T, v T) {
	select {
	case c <- v:
	default:
	}
}

// begin says that a call begins; end that it is back, and whether in time.
func (d *deadline) begin(call string) {
	d.mu.Lock()
	d.call, d.since, d.over, d.gone = call, time.Now(), false, false
	d.mu.Unlock()
}

func (d *deadline) end() error {
	d.mu.Lock()
	if d.gone { // somebody else does this goroutine's work
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
	return &guestError{reason: reasonDeadline, fatal: true, call: call, err: fmt.Errorf("%s: it takes longer than %v: if it needs more, raise deadline", call, d.after)}
}

// Watch says who is told of a call that takes longer than the deadline: such a
// call fails when it comes back, and is the module's last one. stuck, which may be
// nil, is told of one that has not come back five seconds later: then it never
// does, and the operator must not be used, nor closed. Both are called on another goroutine,
// one at a time, and may be replaced between two calls. Without late no call is
// late.
func (op *Operator) Watch(late, stuck func(call string)) {
	op.deadline.mu.Lock()
	defer op.deadline.mu.Unlock()
	op.deadline.late, op.deadline.stuck = late, stuck
}

// Abandon says that a call on another goroutine, which failed with err, is not
// waited for any more. The operator must not be used but for Close, which leaves
// what that goroutine uses, and the module cannot be opened again in this process.
// It returns err.
func (op *Operator) Abandon(err error) error {
	op.abandoned = true
	op.condemn(err)
	return err
}

// Guarded runs f, which calls the operator, on another goroutine. When a call into
// the module takes too long, whoever watches is told, and f is left to itself.
func (op *Operator) Guarded(f func() error) (err error, left bool) {
	d := op.deadline
	d.mu.Lock()
	late, stuck := d.late, d.stuck
	d.mu.Unlock()
	tooLate, done := make(chan string, 1), make(chan error, 1)
	op.Watch(func(call string) {
		if late != nil {
			late(call)
		}
		trySend(tooLate, call)
	}, nil)
	go func() { done <- f() }()
	select {
	case err = <-done:
		op.Watch(late, stuck)
		return err, false
	case call := <-tooLate:
		return d.error(call), true
	}
}

// leave leaves the guest to the goroutine that is in it, with the module and the
// host that it uses. There is no guest after it.
func (op *Operator) leave() (err error) {
	module, _ := op.Module()
	now := op.host.watermark
	if op.host, err = newHost(op.env, module, op.cfg.Seed); err != nil {
		return err
	}
	op.host.watermark, op.guest, op.abandoned = now, nil, true
	return nil
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
