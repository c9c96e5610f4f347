package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Result is what a child process used for its readings.
type Result struct {
	Scenario      string  `json:"scenario"`
	Subject       string  `json:"subject"` // penstock, or the bare client beside it
	Readings      int64   `json:"readings"`
	Seconds       float64 `json:"seconds"`
	ReadingsPerS  float64 `json:"readings_per_s"`
	CPUPerMillion float64 `json:"cpu_s_per_million"`
	P50           float64 `json:"latency_p50_ms,omitempty"`
	P99           float64 `json:"latency_p99_ms,omitempty"`
	RSS           int64   `json:"peak_rss_bytes"`
}

// job tells a child what to do, on its standard input.
type job struct {
	Subject string `json:"subject"` // pipeline, bare-mqtt, bare-opcua
	Config  string `json:"config,omitempty"`
	URL     string `json:"url,omitempty"`
	QoS     byte   `json:"qos,omitempty"`
	PerMsg  int    `json:"per_message,omitempty"`
	Nodes   int    `json:"nodes,omitempty"`
	Count   int64  `json:"count"` // readings to wait for
}

// ChildCommand is the hidden command under which the program is its own child.
const ChildCommand = "bench-child"

// child runs a job in a process of its own: go is called once the child is
// connected and makes the load begin.
func child(ctx context.Context, j job, begin func()) (Result, error) {
	self, err := os.Executable()
	if err != nil {
		return Result{}, err
	}
	in, err := json.Marshal(j)
	if err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, ChildCommand)
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return Result{}, err
	}
	if err := cmd.Start(); err != nil {
		return Result{}, err
	}
	var r Result
	lines := bufio.NewScanner(out)
	got := false
	for lines.Scan() {
		if lines.Text() == "READY" {
			begin()
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err == nil {
			got = true
		}
	}
	if err := cmd.Wait(); err != nil || !got {
		return r, fmt.Errorf("%s did not finish: %v\n%s", j.Subject, err, tail(stderr.Bytes(), 4000))
	}
	r.Subject = j.Subject
	return r, nil
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

// nullHTTP takes writes like InfluxDB and throws them away.
func nullHTTP() (url string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/health" || r.URL.Path == "/ping" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"name":"influxdb","status":"pass","version":"2.0.0"}`)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	go s.Serve(l)
	return "http://" + l.Addr().String(), func() { s.Close() }, nil
}

// MQTT measures the MQTT path: each scenario with the pipeline and with a bare
// paho subscriber that only counts. scale multiplies the number of readings;
// only, when not empty, is a part of the names of the scenarios to run.
func MQTT(ctx context.Context, scale float64, only string, report func(Result)) error {
	for _, s := range []struct {
		name string
		load mqttLoad
	}{
		{"mqtt qos 0, 1 reading/message", mqttLoad{QoS: 0, Tags: 1000, PerMessage: 1, Count: 1_000_000}},
		{"mqtt qos 1, 1 reading/message", mqttLoad{QoS: 1, Tags: 1000, PerMessage: 1, Count: 500_000, Window: 1000}},
		{"mqtt qos 0, 100 readings/message", mqttLoad{QoS: 0, Tags: 1000, PerMessage: 100, Count: 5_000_000}},
		{"mqtt qos 0, 5 000 readings/s", mqttLoad{QoS: 0, Tags: 1000, PerMessage: 1, Count: 75_000, Rate: 5000}},
	} {
		if !strings.Contains(s.name, only) {
			continue
		}
		s.load.Count = int(float64(s.load.Count) * scale)
		for _, subject := range []string{"bare-mqtt", "pipeline"} {
			r, err := mqttRun(ctx, subject, s.load)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			r.Scenario = s.name
			report(r)
		}
	}
	return nil
}

func mqttRun(ctx context.Context, subject string, load mqttLoad) (Result, error) {
	peer, err := newMQTTPeer(load)
	if err != nil {
		return Result{}, err
	}
	defer peer.l.Close()
	url, stop, err := nullHTTP()
	if err != nil {
		return Result{}, err
	}
	defer stop()
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)
	j := job{Subject: subject, URL: peer.url(), QoS: load.QoS, PerMsg: load.PerMessage, Count: int64(load.Count)}
	if subject == "pipeline" {
		decode := "{value: value, time: ts, time_format: us}"
		if load.PerMessage > 1 {
			decode = "{each: readings, tag: tag, value: value, time: ts, time_format: us}"
		}
		j.Config = fmt.Sprintf(mqttConfig, dir, peer.url(), load.QoS, decode, url)
	}
	r, err := child(ctx, j, func() {
		go func() {
			select {
			case <-peer.subscribed:
			case <-time.After(10 * time.Second):
			}
			close(peer.start)
		}()
	})
	if err != nil {
		return r, err
	}
	select {
	case err = <-peer.done:
	case <-time.After(5 * time.Second):
		err = errors.New("mqtt peer does not end")
	}
	return r, err
}

// mqttConfig is the pipeline that is measured: every reading with its score and
// quality, journal on, to an InfluxDB that throws it away.
const mqttConfig = `version: 1
name: bench
journal: {dir: %q, max_bytes: 512MiB}
sources:
  - {name: floor, type: mqtt, broker: %q, topics: [{topic: "plant/#", qos: %d, decode: %s}]}
operators:
  - {name: score, type: wasm, inputs: [floor], module: ewma, params: {half_life: 30s}}
sinks:
  - {name: influx, type: influxdb, inputs: [score], url: %q, org: bench, bucket: bench, token: bench, fields: [value, score, flag, quality]}
http: {listen: ""}
`
