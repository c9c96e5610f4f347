package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/pipeline/config"
	"github.com/penstock/penstock/pipeline/flow"
)

// A running pipeline is asked to change over a socket in its journal's folder,
// which nobody but its user can connect to: no port, no password.
const controlSocket = "control.sock"

// maxSocketPath is what the kernel takes.
const maxSocketPath = 107

// serveControl listens in dir until stop is called.
func serveControl(dir string, a *app.App, log *slog.Logger) (stop func(), err error) {
	path := filepath.Join(dir, controlSocket)
	if len(path) > maxSocketPath {
		log.Warn("operators cannot be changed while this pipeline runs: the path of journal.dir is too long for a socket", "path", path)
		return func() {}, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a run that was killed: the journal's lock says that it is over
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close() //nolint:errcheck // the other error counts
		return nil, err
	}
	s := &http.Server{Handler: controlHandler(a), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	go s.Serve(l)
	return func() { s.Close() }, nil
}

// controlTimeout is how long a change may take: the flow may have much to do.
const controlTimeout = time.Minute

func controlHandler(a *app.App) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any, err error) {
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusConflict)
			v = map[string]string{"error": err.Error()}
		}
		json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /operators", func(w http.ResponseWriter, _ *http.Request) { answer(w, a.Modules(), nil) })
	mux.HandleFunc("POST /operators/{name}/{action}", func(w http.ResponseWriter, r *http.Request) {
		code, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wasm.MaxModuleSize))
		if err != nil {
			answer(w, nil, err)
			return
		}
		if len(code) == 0 {
			code = nil
		}
		ctx, cancel := context.WithTimeout(r.Context(), controlTimeout)
		defer cancel()
		change, err := a.Control(ctx, r.PathValue("action"), r.PathValue("name"), code)
		answer(w, change, err)
	})
	return mux
}

// controlClient speaks to the pipeline of a config file, or of a journal folder.
type controlClient struct{ http http.Client }

func newControlClient(where string) (*controlClient, error) {
	dir := where
	if st, err := os.Stat(where); err != nil {
		return nil, err
	} else if !st.IsDir() {
		c, err := config.Load(where, app.Registry())
		if c == nil || c.Journal.Dir == "" { // other mistakes, such as a secret that only the service has, do not matter here
			return nil, errors.Join(err, fmt.Errorf("%s does not say where its journal is; give the folder of the journal instead", where))
		}
		dir = c.Journal.Dir
	}
	path := filepath.Join(dir, controlSocket)
	if _, err := os.Stat(path); err != nil {
		if !filepath.IsAbs(dir) {
			err = fmt.Errorf("%w (a relative path is taken from the folder in which the pipeline was started: run this there)", err)
		}
		return nil, fmt.Errorf("no pipeline runs with its journal in %s: %w", dir, err)
	}
	return &controlClient{http.Client{Timeout: controlTimeout + 5*time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}}}, nil
}

func (c *controlClient) do(ctx context.Context, method, path string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://penstock/operators"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("the pipeline does not answer: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		var e struct{ Error string }
		if json.Unmarshal(data, &e) == nil && e.Error != "" {
			return errors.New(e.Error)
		}
		return fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(data)))
	}
	return json.Unmarshal(data, out)
}

// change asks for action; module is a file, the name of a shipped module, or "".
func (c *controlClient) change(ctx context.Context, action, operator, module string) (app.Change, error) {
	var code []byte
	var out app.Change
	if module != "" {
		var err error
		if code, err = wasm.Load(module); err != nil {
			return out, err
		}
		if len(code) == 0 {
			return out, fmt.Errorf("%s is empty", module)
		}
	}
	return out, c.do(ctx, http.MethodPost, "/"+operator+"/"+action, code, &out)
}

// status returns what runs, by shard.
func (c *controlClient) status(ctx context.Context) (shards [][]flow.NodeStatus, err error) {
	err = c.do(ctx, http.MethodGet, "", nil, &shards)
	return shards, err
}

// actions by the name of their command.
var controlActions = map[string]string{"deploy": pipeline.ControlDeploy, "rollback": pipeline.ControlRollback, "promote": pipeline.ControlPromote,
	"start": pipeline.ControlShadow, "stop": pipeline.ControlShadow}
