package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"golang.org/x/term"

	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/simulators/plant"
)

// view shows a running demo: a live picture on a terminal, plain lines
// elsewhere.
type view struct {
	out    io.Writer
	live   bool
	url    string
	where  string // where the files are, when they are kept
	meter  *pipeline.Meter
	a      *app.App
	plant  *plant.Plant
	start  time.Time
	last   pipeline.Totals
	lastAt time.Time
	shown  int // alerts printed, plain
	lines  int // lines of the live picture
}

func newView(plain bool, url, dir string, kept bool, m *pipeline.Meter, a *app.App, p *plant.Plant) *view {
	v := &view{out: os.Stdout, live: !plain && term.IsTerminal(int(os.Stdout.Fd())), url: url, meter: m, a: a, plant: p, start: time.Now(), lastAt: time.Now()}
	if kept {
		v.where = dir
	}
	return v
}

// Run shows the demo until ctx ends or done is closed.
func (v *view) Run(ctx context.Context, done <-chan struct{}) {
	fmt.Fprintf(v.out, "A plant runs: %d tags over OPC UA and MQTT. Page: %s\n", len(v.plant.Tags()), v.url)
	if v.where != "" {
		fmt.Fprintf(v.out, "Journal, Parquet archive and ground truth: %s\n", v.where)
	}
	every := 5 * time.Second
	if v.live {
		every = 500 * time.Millisecond
	}
	report := time.NewTicker(every)
	defer report.Stop()
	events := time.NewTicker(250 * time.Millisecond)
	defer events.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-done:
			return
		case <-report.C:
			v.report()
		case <-events.C:
			if !v.live {
				v.printAlerts()
			}
		}
	}
}

func (v *view) printAlerts() {
	all := v.a.Alerts.All()
	for ; v.shown < len(all); v.shown++ {
		a := all[v.shown]
		fmt.Fprintf(v.out, "%5.1fs  ALERT %-8s %-22s %s\n", a.Raised.Sub(v.start).Seconds(), a.Severity, a.Rule, a.Tag)
	}
}

// figures is one line of rates and lag.
func (v *view) figures() string {
	t, now := v.meter.Totals(), time.Now()
	dt := now.Sub(v.lastAt).Seconds()
	rate := float64(t.Ingested-v.last.Ingested) / dt
	v.last, v.lastAt = t, now
	flow, _ := v.a.Backlog()
	p50, _ := v.meter.LatencyQuantile(50)
	p99, _ := v.meter.LatencyQuantile(99)
	return fmt.Sprintf("%5.1fs  %.0f readings/s  in %d  processed %d  dropped %d  waiting %d  latency p50 %.1f ms p99 %.1f ms",
		now.Sub(v.start).Seconds(), rate, t.Ingested, t.Processed, sum(t.Dropped), flow, ms(p50), ms(p99))
}

func (v *view) report() {
	if !v.live {
		fmt.Fprintln(v.out, v.figures())
		return
	}
	dim := lipgloss.NewStyle().Faint(true)
	bold := lipgloss.NewStyle().Bold(true)
	var b strings.Builder
	fmt.Fprintln(&b, v.figures())
	t := v.meter.Totals()
	for _, n := range v.a.Graph().Nodes {
		if o, ok := t.Operators[n.Name]; ok && o.Rows > 0 {
			fmt.Fprintln(&b, dim.Render(fmt.Sprintf("  %-16s %-14s %-8s %9d rows %7.0f ns/row", n.Name, o.Module, o.Engine, o.Rows, float64(o.Busy.Nanoseconds())/float64(o.Rows))))
		}
	}
	all := v.a.Alerts.All()
	fmt.Fprintln(&b, bold.Render(fmt.Sprintf("Alerts (%d)", len(all))))
	for i := len(all) - 1; i >= max(0, len(all)-10); i-- {
		a, state := all[i], "active"
		if a.Cleared != nil {
			state = "cleared"
		}
		style := lipgloss.NewStyle().Foreground(map[string]lipgloss.Color{"critical": "9", "warning": "11"}[a.Severity])
		if a.Cleared != nil {
			style = dim
		}
		fmt.Fprintln(&b, style.Render(fmt.Sprintf("  %s  %-8s %-22s %-44s %s", a.Raised.Local().Format("15:04:05"), a.Severity, a.Rule, a.Tag, state)))
	}
	text := b.String()
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		width, height = 120, 40
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	lines = lines[:min(len(lines), height-2)]
	var out strings.Builder
	if v.lines > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", v.lines)
	}
	for _, l := range lines {
		out.WriteString("\r\x1b[2K" + lipgloss.NewStyle().MaxWidth(width-1).Render(l) + "\n")
	}
	for range max(0, v.lines-len(lines)) {
		out.WriteString("\r\x1b[2K\n")
	}
	v.lines = max(v.lines, len(lines))
	fmt.Fprint(v.out, out.String())
}

// Final shows how it went.
func (v *view) Final(s *app.Summary) {
	if !v.live {
		v.printAlerts()
	}
	fmt.Fprintf(v.out, "\nReadings: published %d, ingested %d, journaled %d, processed %d, dropped %d\n",
		*s.Readings.Published, s.Readings.Ingested, s.Readings.Journaled, s.Readings.Processed, sum(s.Readings.Dropped))
	var names []string
	for n := range s.Sinks {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		k := s.Sinks[n]
		fmt.Fprintf(v.out, "Sink %-10s queued %d, accepted %d, dead-lettered %d\n", n+":", k.Queued, k.Accepted, k.DeadLettered)
	}
	kinds := map[string]bool{}
	for _, f := range s.Faults {
		found := "not found"
		if f.Detected {
			kinds[f.Kind] = true
			found = fmt.Sprintf("found after %.1f s", *f.DelayS)
		}
		fmt.Fprintf(v.out, "Fault %-14s %-24s %s\n", f.Kind, f.Asset, found)
	}
	fmt.Fprintf(v.out, "%d kinds of faults found, %d false alarms, %d alerts\n", len(kinds), *s.FalseAlarms, len(s.Alerts))
	if s.LatencyMS != nil {
		fmt.Fprintf(v.out, "Latency p50 %.1f ms, p99 %.1f ms; CPU %.1f s; peak memory %.0f MB\n", s.LatencyMS.P50, s.LatencyMS.P99, s.CPUSeconds, float64(s.PeakRSS)/1e6)
	}
}

func sum(m map[string]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
