package mqtt

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/arrow/array"
	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/ingest/decode"
	"github.com/penstock/penstock/pipeline"
)

// benchChild makes the test binary a subscriber in a process of its own, so
// that its CPU time is no one else's.
const benchChild = "PENSTOCK_MQTT_BENCH_CHILD"

type benchJob struct {
	Subject string // ours; bare: paho that only counts; paced: paho on a pacedConn
	URL     string
	QoS     byte
	Per     int // readings a message
	Count   int // readings
	Rate    int // readings/s, 0 for as fast as possible
}

type benchResult struct {
	CPU, Seconds float64
	P50, P99     float64 // ms from the sender's clock to Read's return; ours only
	RSS          int64
	Batches      int
}

// BenchmarkSubscriber reports CPU seconds per million readings, beside a bare
// paho subscriber in the same run. ours is decoding, batching, Arrow records
// and acknowledgement; nothing takes the records.
func BenchmarkSubscriber(b *testing.B) {
	for _, s := range []struct {
		name string
		job  benchJob
	}{
		{"qos0", benchJob{QoS: 0, Per: 1, Count: 1_000_000}},
		{"qos1", benchJob{QoS: 1, Per: 1, Count: 400_000}},
		{"qos2", benchJob{QoS: 2, Per: 1, Count: 200_000}},
		{"qos0_100", benchJob{QoS: 0, Per: 100, Count: 5_000_000}},
		{"qos0_5000_per_s", benchJob{QoS: 0, Per: 1, Count: 50_000, Rate: 5000}},
		{"qos1_5000_per_s", benchJob{QoS: 1, Per: 1, Count: 50_000, Rate: 5000}},
	} {
		for _, subject := range []string{"bare", "paced", "ours"} {
			b.Run(s.name+"/"+subject, func(b *testing.B) {
				for b.Loop() {
					job := s.job
					job.Subject = subject
					r := runBench(b, job)
					b.ReportMetric(r.CPU/float64(job.Count)*1e6, "CPU-s/M")
					b.ReportMetric(float64(job.Count)/r.Seconds, "readings/s")
					b.ReportMetric(float64(r.RSS)/1e6, "RSS-MB")
					if subject == "ours" && job.Rate > 0 {
						b.ReportMetric(r.P50, "p50-ms")
						b.ReportMetric(r.P99, "p99-ms")
					}
					if subject == "ours" {
						b.ReportMetric(float64(r.Batches), "batches")
					}
				}
			})
		}
	}
}

func runBench(b *testing.B, job benchJob) (r benchResult) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer l.Close()
	job.URL = "tcp://" + l.Addr().String()
	sent := make(chan error, 1)
	go func() { sent <- serveBench(l, job) }()
	in, err := json.Marshal(job)
	require.NoError(b, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchChild+"="+string(in))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(b, err)
	require.NoError(b, json.Unmarshal(out, &r), "%s", out)
	require.NoError(b, <-sent)
	return r
}

// serveBench is the far end: it greets like a broker and sends messages
// encoded beforehand, at most 1000 ahead of their acknowledgement.
func serveBench(l net.Listener, job benchJob) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	var mu sync.Mutex
	acks, closed := 0, false
	acked := sync.NewCond(&mu)
	sending := make(chan error, 1)
	r := bufio.NewReaderSize(c, 64<<10)
	reply := func(p ...byte) { _, _ = c.Write(p) } // before the sending begins, or QoS 2
	for {
		head, err := r.ReadByte()
		if err != nil {
			break
		}
		n, err := binary.ReadUvarint(r)
		if err != nil {
			break
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			break
		}
		switch head >> 4 {
		case 1:
			reply(typeConnack<<4, 2, 0, 0)
		case 8:
			reply(0x90, 3, body[0], body[1], job.QoS)
			go func() { sending <- sendBench(c, job, &mu, acked, &acks, &closed) }()
		case typePubrec:
			reply(typePubrel<<4|2, 2, body[0], body[1])
		case typePuback, typePubcomp:
			mu.Lock()
			acks++
			mu.Unlock()
			acked.Signal()
		case typePingreq:
			reply(typePingresp<<4, 0)
		}
	}
	mu.Lock()
	closed = true
	mu.Unlock()
	acked.Signal()
	return <-sending
}

func sendBench(c net.Conn, job benchJob, mu *sync.Mutex, acked *sync.Cond, acks *int, closed *bool) error {
	const tags, window = 1000, 1000
	type template struct {
		data  []byte
		id    int
		times []int
	}
	var msgs []template
	for first := 0; first < tags; first += job.Per {
		var t template
		var body []byte
		topic := fmt.Sprintf("plant/line%d/tag%04d", first%10, first)
		reading := func(tag string) {
			body = append(body, "{"+tag+`"value":20.123456,"ts":`...)
			t.times = append(t.times, len(body))
			body = append(body, "0000000000000000}"...)
		}
		if job.Per == 1 {
			reading("")
		} else {
			topic = "plant/gateway"
			body = append(body, `{"readings":[`...)
			for i := range job.Per {
				if i > 0 {
					body = append(body, ',')
				}
				reading(fmt.Sprintf(`"tag":"line%d/tag%04d",`, i%10, first+i))
			}
			body = append(body, "]}"...)
		}
		size := 2 + len(topic) + len(body)
		if job.QoS > 0 {
			size += 2
		}
		t.data = binary.AppendUvarint([]byte{typePublish<<4 | job.QoS<<1}, uint64(size))
		t.data = binary.BigEndian.AppendUint16(t.data, uint16(len(topic)))
		t.data = append(t.data, topic...)
		if job.QoS > 0 {
			t.id = len(t.data)
			t.data = append(t.data, 0, 0)
		}
		for i := range t.times {
			t.times[i] += len(t.data)
		}
		t.data = append(t.data, body...)
		msgs = append(msgs, t)
	}
	w := bufio.NewWriterSize(c, 64<<10)
	began := time.Now()
	for n := 0; n*job.Per < job.Count; n++ {
		now := time.Now()
		if job.Rate > 0 {
			if wait := time.Duration(float64(n*job.Per)/float64(job.Rate)*1e9) - now.Sub(began); wait > 0 {
				if err := w.Flush(); err != nil {
					return err
				}
				time.Sleep(wait)
				now = time.Now()
			}
		}
		if job.QoS > 0 {
			mu.Lock()
			for n-*acks >= window && !*closed {
				mu.Unlock()
				if err := w.Flush(); err != nil {
					return err
				}
				mu.Lock()
				if n-*acks >= window && !*closed {
					acked.Wait()
				}
			}
			mu.Unlock()
		}
		t := &msgs[n%len(msgs)]
		if t.id > 0 {
			binary.BigEndian.PutUint16(t.data[t.id:], uint16(n%65535+1))
		}
		us := fmt.Appendf(nil, "%d", now.UnixMicro())
		for _, at := range t.times {
			copy(t.data[at:], us)
		}
		if _, err := w.Write(t.data); err != nil {
			return err
		}
	}
	return w.Flush()
}

func cpu() (seconds float64, rss int64) {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9, u.Maxrss << 10
}

// runBenchChild is the subscriber.
func runBenchChild() int {
	var job benchJob
	err := json.Unmarshal([]byte(os.Getenv(benchChild)), &job)
	var r benchResult
	if err == nil {
		before, _ := cpu()
		began := time.Now()
		if job.Subject == "ours" {
			err = benchOurs(job, &r)
		} else {
			err = benchPaho(job)
		}
		after, rss := cpu()
		r.CPU, r.Seconds, r.RSS = after-before, time.Since(began).Seconds(), rss
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = json.NewEncoder(os.Stdout).Encode(r)
	return 0
}

func benchPaho(job benchJob) error {
	done := make(chan struct{})
	var n atomic.Int64
	o := paho.NewClientOptions().AddBroker(job.URL).SetClientID("bare").SetOrderMatters(true)
	if job.Subject == "paced" {
		o.SetCustomOpenConnectionFn(func(u *url.URL, _ paho.ClientOptions) (net.Conn, error) {
			c, err := net.Dial("tcp", u.Host)
			if err != nil {
				return nil, err
			}
			return newPacedConn(c), nil
		})
	}
	c := paho.NewClient(o)
	if t := c.Connect(); t.Wait() && t.Error() != nil {
		return t.Error()
	}
	if t := c.Subscribe("plant/#", job.QoS, func(paho.Client, paho.Message) {
		if n.Add(int64(job.Per)) == int64(job.Count) {
			close(done)
		}
	}); t.Wait() && t.Error() != nil {
		return t.Error()
	}
	<-done
	c.Disconnect(100)
	return nil
}

func benchOurs(job benchJob, r *benchResult) error {
	cfg := DefaultConfig()
	cfg.Broker, cfg.ClientID = job.URL, "ours"
	d := decode.Config{Value: "value", Time: "ts", TimeFormat: "us"}
	if job.Per > 1 {
		d.Each, d.Tag = "readings", "tag"
	}
	cfg.Topics = []TopicConfig{{Topic: "plant/#", QoS: int(job.QoS), Decode: d}}
	s, err := New(cfg, pipeline.Env{Name: "floor", Shards: 1, Tags: pipeline.NewTags(nil)})
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := s.Connect(ctx); err != nil {
		return err
	}
	var late []int64
	for n := 0; n < job.Count; {
		b, ack, err := s.Read(ctx)
		if err != nil {
			return err
		}
		if b.Record != nil {
			n += int(b.Record.NumRows())
			r.Batches++
			if job.Rate > 0 {
				now := time.Now().UnixNano()
				for _, t := range b.Record.Column(pipeline.ColTime).(*array.Timestamp).TimestampValues() {
					late = append(late, now-int64(t))
				}
			}
			b.Record.Release()
		}
		ack(nil)
	}
	if len(late) > 0 {
		slices.Sort(late)
		r.P50, r.P99 = float64(late[len(late)/2])/1e6, float64(late[len(late)*99/100])/1e6
	}
	return s.Close(ctx)
}
