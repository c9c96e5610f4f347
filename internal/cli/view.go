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
	"github.com/penstock/penstock/pipeline/graph"
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
	tags   int
	start  time.Time // of the plant
	last   int64     // ingested
	lastAt time.Time // when it was
	rate   float64   // readings/s until then
	shown  int       // alerts printed, plain
	lines  int       // lines of the live picture
}

func newView(plain bool, url, dir string, kept bool, m *pipeline.Meter, a *app.App, p *plant.Plant) *view {
	v := &view{out: os.Stdout, live: !plain && term.IsTerminal(int(os.Stdout.Fd())), url: url, meter: m, a: a, plant: p, tags: len(p.Tags()),
		start: p.StepTime(0), lastAt: time.Now()}
	if kept {
		v.where = dir
	}
	return v
}

// Run shows the demo until ctx ends, the plant is done or the pipeline is.
func (v *view) Run(ctx context.Context, plant, pipeline <-chan struct{}) {
	if !v.live {
		fmt.Fprintf(v.out, "A plant runs: %d tags over OPC UA and MQTT. Page: %s\n", v.tags, v.url)
	}
	if v.where != "" {
		fmt.Fprintf(v.out, "Journal, Parquet archive, logs and ground truth: %s\n", v.where)
	}
	select {
	case <-time.After(time.Until(v.start)):
	case <-ctx.Done():
		return
	}
	v.lastAt = time.Now()
	every := 5 * time.Second
	if v.live {
		v.report()
		defer v.report()
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
		case <-plant:
			return
		case <-pipeline:
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

// snapshot is what one picture shows.
type snapshot struct {
	url       string
	tags      int
	elapsed   time.Duration
	rate      float64 // readings/s
	totals    pipeline.Totals
	waiting   uint64 // journal entries
	p50, p99  time.Duration
	operators []string // in the order of the graph
	alerts    []app.Alert
	truth     []plant.FaultRecord
}

func (v *view) snapshot() snapshot {
	t, now := v.meter.Totals(), time.Now()
	s := snapshot{url: v.url, tags: v.tags, elapsed: max(now.Sub(v.start), 0), totals: t, alerts: v.a.Alerts.All(), truth: v.plant.Truth()}
	// Sources flush unevenly: a rate is over two seconds at least.
	if dt := now.Sub(v.lastAt); dt >= 2*time.Second || v.last == 0 {
		v.rate, v.last, v.lastAt = float64(t.Ingested-v.last)/dt.Seconds(), t.Ingested, now
	}
	s.rate = v.rate
	s.waiting, _ = v.a.Backlog()
	s.p50, _ = v.meter.LatencyQuantile(50)
	s.p99, _ = v.meter.LatencyQuantile(99)
	for _, n := range v.a.Graph().Nodes {
		if n.Kind == graph.Operator {
			s.operators = append(s.operators, n.Name)
		}
	}
	return s
}

// line is one line of rates and lag.
func (s *snapshot) line() string {
	return fmt.Sprintf("%5.1fs  %.0f readings/s  in %d  processed %d  dropped %d  waiting %d  latency p50 %.1f ms p99 %.1f ms",
		s.elapsed.Seconds(), s.rate, s.totals.Ingested, s.totals.Processed, sum(s.totals.Dropped), s.waiting, ms(s.p50), ms(s.p99))
}

func (v *view) report() {
	s := v.snapshot()
	if !v.live {
		fmt.Fprintln(v.out, s.line())
		return
	}
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil || width < 2 || height < 3 {
		width, height = 80, 24
	}
	lines := s.picture(width-1, height-2)
	v.lines = min(v.lines, height-1)
	var out strings.Builder
	if v.lines > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", v.lines)
	}
	for _, l := range lines {
		out.WriteString("\r\x1b[2K" + l + "\n")
	}
	out.WriteString("\x1b[J") // what a longer picture left below
	v.lines = len(lines)
	fmt.Fprint(v.out, out.String())
}

var (
	dim      = lipgloss.NewStyle().Faint(true)
	bold     = lipgloss.NewStyle().Bold(true)
	good     = lipgloss.NewStyle().Foreground(lipgloss.Color("10"))
	severity = map[string]lipgloss.Style{"critical": lipgloss.NewStyle().Foreground(lipgloss.Color("9")), "warning": lipgloss.NewStyle().Foreground(lipgloss.Color("11"))}
)

// picture draws the demo in at most height lines of at most width columns:
// rates, then faults and alerts, side by side where there is room, then the
// operators with what room is left.
func (s *snapshot) picture(width, height int) []string {
	lines := []string{
		bold.Render("Penstock demo") + fmt.Sprintf("  %d tags  %s  %s", s.tags, s.url, dim.Render("Ctrl-C ends it")),
		fmt.Sprintf("%6.1f s   %5.0f readings/s   in %d   processed %d   dropped %d", s.elapsed.Seconds(), s.rate, s.totals.Ingested, s.totals.Processed, sum(s.totals.Dropped)),
		fmt.Sprintf("latency p50 %.1f ms, p99 %.1f ms   waiting batches %d", ms(s.p50), ms(s.p99), s.waiting),
		"",
	}
	operators := s.operatorLines()
	const wide = 150
	if width >= wide {
		rows := max(5, min(height-len(lines)-len(operators)-1, 24))
		const left = 66
		faults, alerts := s.faultLines(rows), s.alertLines(rows, width-left-2)
		for i := range max(len(faults), len(alerts)) {
			l, r := "", ""
			if i < len(faults) {
				l = lipgloss.NewStyle().MaxWidth(left).Render(faults[i])
			}
			if i < len(alerts) {
				r = alerts[i]
			}
			lines = append(lines, l+strings.Repeat(" ", left+2-lipgloss.Width(l))+r)
		}
	} else {
		faults := s.faultLines(9)
		lines = append(lines, faults...)
		room := height - len(lines) - 1
		if room > 10+len(operators) {
			room -= len(operators) + 1
		}
		lines = append(append(lines, ""), s.alertLines(room, width)...)
	}
	if height-len(lines) > 3 {
		lines = append(append(lines, ""), operators...)
	}
	lines = lines[:min(len(lines), height)]
	for i, l := range lines {
		lines[i] = lipgloss.NewStyle().MaxWidth(width).Render(l)
	}
	return lines
}

// faultLines lists the newest faults below a heading, n lines at most.
func (s *snapshot) faultLines(n int) []string {
	results, wrong := plant.Evaluate(s.truth, raised(s.alerts))
	found := 0
	for _, r := range results {
		if r.Detected {
			found++
		}
	}
	out := []string{bold.Render(fmt.Sprintf("Faults: %d injected, %d found, %d false alarms", len(results), found, wrong))}
	for i := len(results) - 1; i >= 0 && len(out) < n; i-- {
		r := results[i]
		line := fmt.Sprintf("  %s  %-13s %-24s ", r.Start.Local().Format("15:04:05"), strings.ReplaceAll(r.Kind, "_", " "), r.Asset)
		if r.Detected {
			line += good.Render(fmt.Sprintf("after %.1f s", *r.DelayS))
		} else {
			line += dim.Render("not yet")
		}
		out = append(out, line)
	}
	return out
}

// alertLines lists the newest alerts below a heading, n lines at most.
func (s *snapshot) alertLines(n, width int) []string {
	active := 0
	for _, a := range s.alerts {
		if a.Cleared == nil {
			active++
		}
	}
	out := []string{bold.Render(fmt.Sprintf("Alerts: %d active of %d", active, len(s.alerts)))}
	for i := len(s.alerts) - 1; i >= 0 && len(out) < n; i-- {
		a, style := s.alerts[i], severity[s.alerts[i].Severity]
		if a.Cleared != nil {
			style = dim
		}
		line := fmt.Sprintf("  %s  %-16s %s", a.Raised.Local().Format("15:04:05"), a.Rule, a.Tag)
		if a.Cleared != nil {
			line = fmt.Sprintf("%-*s cleared", max(width-9, 0), line)
		}
		out = append(out, style.Render(line))
	}
	return out
}

// operatorLines lists the operators below a heading, rules left out.
func (s *snapshot) operatorLines() []string {
	out := []string{bold.Render(fmt.Sprintf("%-16s  %-14s %-8s %12s %10s", "Operators", "module", "engine", "rows", "ns/row"))}
	for _, name := range s.operators {
		if o := s.totals.Operators[name]; o.Rows > 0 {
			out = append(out, dim.Render(fmt.Sprintf("  %-14s  %-14s %-8s %12d %10.0f", name, o.Module, o.Engine, o.Rows, float64(o.Busy.Nanoseconds())/float64(o.Rows))))
		}
	}
	return out
}

// Final shows how it went.
func (v *view) Final(s *app.Summary) {
	if !v.live {
		v.printAlerts()
	}
	fmt.Fprintf(v.out, "\nReadings: published %d, ingested %d, processed %d, dropped %d\n",
		*s.Readings.Published, s.Readings.Ingested, s.Readings.Processed, sum(s.Readings.Dropped))
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
