package testpeer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	influxdb2 "github.com/influxdata/influxdb-client-go/v2"
)

// InfluxConfig says how the server is set up.
type InfluxConfig struct {
	// Auth makes an administrator, whose user:password is Token, and refuses
	// everyone else.
	Auth bool
	// Certs makes the server speak https with their server certificate.
	Certs *Certs
	// Extra lines for the [http] section of influxdb.conf.
	Extra string
}

// InfluxDB is a running influxd 1.8.10 with one database, which serves the v2
// write API and Flux. A Restart keeps the data.
type InfluxDB struct {
	URL    string
	Org    string // the server ignores it
	Bucket string // the database
	Token  string // "" without Auth

	proc   *process
	client *http.Client
	t      testing.TB
}

// Influx starts a server.
func Influx(t testing.TB, cfg InfluxConfig) *InfluxDB {
	t.Helper()
	bin := binary(t, "influxd")
	dir := t.TempDir()
	db := &InfluxDB{Org: "plant", Bucket: "penstock", t: t,
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	scheme, https := "http", ""
	if cfg.Certs != nil {
		scheme = "https"
		https = fmt.Sprintf("https-enabled = true\nhttps-certificate = %q\nhttps-private-key = %q\n", cfg.Certs.Server, cfg.Certs.ServerKey)
		db.client.Transport.(*http.Transport).TLSClientConfig = cfg.Certs.ClientTLS(t)
	}
	if cfg.Auth {
		db.Token = "admin:secret-of-the-test"
	}
	db.proc = run(t, func() *process {
		port := FreePort(t)
		db.URL = fmt.Sprintf("%s://127.0.0.1:%d", scheme, port)
		file := filepath.Join(dir, "influxdb.conf")
		text := fmt.Sprintf(`reporting-disabled = true
bind-address = "127.0.0.1:%d"
[meta]
dir = %q
logging-enabled = false
[data]
dir = %q
wal-dir = %q
[monitor]
store-enabled = false
[subscriber]
enabled = false
[continuous_queries]
enabled = false
[logging]
level = "warn"
suppress-logo = true
[http]
bind-address = "127.0.0.1:%d"
auth-enabled = %v
flux-enabled = true
log-enabled = false
%s%s
`, FreePort(t), dir+"/meta", dir+"/data", dir+"/wal", port, cfg.Auth, https, cfg.Extra)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return &process{
			name:    "influxd",
			command: func() *exec.Cmd { return exec.Command(bin, "-config", file) },
			ready:   db.ready,
		}
	})
	if cfg.Auth {
		user, password, _ := strings.Cut(db.Token, ":")
		db.InfluxQL("CREATE USER " + user + " WITH PASSWORD '" + password + "' WITH ALL PRIVILEGES")
	}
	db.InfluxQL("CREATE DATABASE " + db.Bucket)
	return db
}

func (db *InfluxDB) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, db.URL+"/health", nil)
	if err != nil {
		return err
	}
	resp, err := db.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/health answers %s", resp.Status)
	}
	return nil
}

// InfluxQL runs a statement, such as CREATE DATABASE, and returns the JSON.
func (db *InfluxDB) InfluxQL(q string) string {
	db.t.Helper()
	req, err := http.NewRequest(http.MethodPost, db.URL+"/query", strings.NewReader(url.Values{"q": {q}, "db": {db.Bucket}}.Encode()))
	if err != nil {
		db.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return db.do(req)
}

// Write stores line protocol with times in ns.
func (db *InfluxDB) Write(lines string) {
	db.t.Helper()
	req, err := http.NewRequest(http.MethodPost, db.URL+"/api/v2/write?precision=ns&org="+db.Org+"&bucket="+url.QueryEscape(db.Bucket), strings.NewReader(lines))
	if err != nil {
		db.t.Fatal(err)
	}
	db.do(req)
}

func (db *InfluxDB) do(req *http.Request) string {
	db.t.Helper()
	if db.Token != "" {
		req.Header.Set("Authorization", "Token "+db.Token)
	}
	resp, err := db.client.Do(req)
	if err != nil {
		db.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 || strings.Contains(string(body), `"error"`) {
		db.t.Fatalf("influxd: %s %v: %s", resp.Status, err, body)
	}
	return string(body)
}

// Query runs Flux and returns one map a row, by column; times are time.Time.
func (db *InfluxDB) Query(flux string) []map[string]any {
	db.t.Helper()
	rows, err := db.TryQuery(flux)
	if err != nil {
		db.t.Fatalf("%v\nin the query\n%s", err, flux)
	}
	return rows
}

// TryQuery is Query that returns the error.
func (db *InfluxDB) TryQuery(flux string) ([]map[string]any, error) {
	c := influxdb2.NewClientWithOptions(db.URL, db.Token, influxdb2.DefaultOptions().SetHTTPClient(db.client))
	defer c.Close()
	res, err := c.QueryAPI(db.Org).Query(context.Background(), flux)
	if err != nil {
		return nil, err
	}
	defer res.Close()
	var rows []map[string]any
	for res.Next() {
		rows = append(rows, res.Record().Values())
	}
	return rows, res.Err()
}

// Count returns how many points have the field, over all time and series. The
// measurement "" is any.
func (db *InfluxDB) Count(measurement, field string) int64 {
	db.t.Helper()
	where := fmt.Sprintf(`r._field == %q`, field)
	if measurement != "" {
		where += fmt.Sprintf(` and r._measurement == %q`, measurement)
	}
	var n int64
	for _, row := range db.Query(fmt.Sprintf(`from(bucket: %q) |> range(start: 1970-01-01T00:00:00Z, stop: 2200-01-01T00:00:00Z) |> filter(fn: (r) => %s) |> group() |> count()`, db.Bucket, where)) {
		n += row["_value"].(int64)
	}
	return n
}

// Stop ends the server cleanly.
func (db *InfluxDB) Stop() { db.proc.end(syscall.SIGTERM) }

// Kill ends the server with SIGKILL.
func (db *InfluxDB) Kill() { db.proc.end(syscall.SIGKILL) }

// Restart stops the server, if it runs, and starts it on the same port.
func (db *InfluxDB) Restart() { db.t.Helper(); db.proc.restart(db.t) }
