package testpeer

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// Browser is a headless Chromium with one page, driven over a pipe by the
// DevTools protocol. It talks to nobody but the pages it is sent to.
type Browser struct {
	t       testing.TB
	w       io.Writer
	session string

	mu      sync.Mutex
	id      int
	answers map[int]chan answer
	errors  []string
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// Chromium starts a browser whose page is width by height CSS pixels, and ends
// it with the test.
func Chromium(t testing.TB, width, height int) *Browser {
	t.Helper()
	bin := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			bin = p
			break
		}
	}
	if bin == "" {
		missing(t, "chromium")
	}
	b := &Browser{t: t, answers: map[int]chan answer{}}
	toR, toW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromR, fromW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b.w = toW
	var log tail
	cmd := exec.Command(bin, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
		"--user-data-dir="+t.TempDir(), "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{toR, fromW} // its 3 and 4
	cmd.Stderr = &log
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	toR.Close()
	fromW.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		b.read(fromR)
	}()
	t.Cleanup(func() {
		_ = b.send(0, "", "Browser.close", nil)
		kill := time.AfterFunc(stopTimeout, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		toW.Close()
		<-read
		fromR.Close()
		if t.Failed() {
			t.Logf("the end of what chromium printed:\n%s", log.String())
		}
	})
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.call(domain+".enable", nil, nil)
	}
	b.Resize(width, height)
	return b
}

// Resize makes the page width by height CSS pixels.
func (b *Browser) Resize(width, height int) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

// Open loads the URL.
func (b *Browser) Open(url string) {
	b.t.Helper()
	var nav struct{ ErrorText string }
	b.call("Page.navigate", map[string]any{"url": url}, &nav)
	if nav.ErrorText != "" {
		b.t.Fatalf("chromium cannot open %s: %s", url, nav.ErrorText)
	}
}

// Eval evaluates a JavaScript expression, waits for a promise, and decodes the
// JSON of the value into v, if that is not nil.
func (b *Browser) Eval(expression string, v any) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s %s", expression, r.ExceptionDetails.Text, r.ExceptionDetails.Exception.Description)
	}
	if v != nil {
		if err := json.Unmarshal(r.Result.Value, v); err != nil {
			b.t.Fatalf("%s: %v in %s", expression, err, r.Result.Value)
		}
	}
}

// Wait waits until the expression is true, or fails the test with what it is.
func (b *Browser) Wait(expression string) {
	b.t.Helper()
	var ok bool
	b.Eval(fmt.Sprintf(`new Promise((done) => {
		const end = Date.now() + 15000;
		const look = () => { if (%s) done(true); else if (Date.now() > end) done(false); else setTimeout(look, 50); };
		look();
	})`, expression), &ok)
	if !ok {
		b.t.Fatalf("not true after 15 s: %s\nerrors of the page: %q", expression, b.Errors())
	}
}

// Screenshot returns a PNG of the page, as it is in the window.
func (b *Browser) Screenshot() []byte {
	b.t.Helper()
	var shot struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png", "optimizeForSpeed": false}, &shot)
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	return png
}

// Errors returns what the page has thrown, logged as error or warning, or
// failed to load.
func (b *Browser) Errors() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string{}, b.errors...)
}

func (b *Browser) send(id int, session, method string, params any) error {
	m := map[string]any{"id": id, "method": method}
	if params != nil {
		m["params"] = params
	}
	if session != "" {
		m["sessionId"] = session
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = b.w.Write(append(data, 0))
	return err
}

func (b *Browser) call(method string, params, result any) {
	b.t.Helper()
	b.mu.Lock()
	b.id++
	id, ch := b.id, make(chan answer, 1)
	b.answers[id] = ch
	b.mu.Unlock()
	if err := b.send(id, b.session, method, params); err != nil {
		b.t.Fatalf("chromium: %s: %v", method, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	select {
	case a, ok := <-ch:
		switch {
		case !ok:
			b.t.Fatalf("chromium ended at %s", method)
		case a.Error != nil:
			b.t.Fatalf("chromium: %s: %s", method, a.Error.Message)
		case result != nil:
			if err := json.Unmarshal(a.Result, result); err != nil {
				b.t.Fatalf("chromium: %s: %v", method, err)
			}
		}
	case <-ctx.Done():
		b.t.Fatalf("chromium does not answer %s", method)
	}
}

// read hands out answers and notes errors until the browser ends.
func (b *Browser) read(r io.Reader) {
	br := bufio.NewReaderSize(r, 1<<20)
	for {
		data, err := br.ReadBytes(0)
		if err != nil {
			break
		}
		var m struct {
			ID     int
			Method string
			Params json.RawMessage
			answer
		}
		if json.Unmarshal(data[:len(data)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		if ch := b.answers[m.ID]; ch != nil && m.Method == "" {
			ch <- m.answer
			delete(b.answers, m.ID)
		} else if isError(m.Method, m.Params) {
			b.errors = append(b.errors, m.Method+" "+string(m.Params))
		}
		b.mu.Unlock()
	}
	b.mu.Lock()
	for id, ch := range b.answers {
		close(ch)
		delete(b.answers, id)
	}
	b.mu.Unlock()
}

// isError tells the events that mean something is wrong with the page.
func isError(method string, params json.RawMessage) bool {
	var p struct {
		Type  string
		Entry struct{ Level string }
	}
	_ = json.Unmarshal(params, &p)
	switch method {
	case "Runtime.exceptionThrown", "Network.loadingFailed":
		return true
	case "Runtime.consoleAPICalled":
		return p.Type == "error" || p.Type == "warning" || p.Type == "assert"
	case "Log.entryAdded":
		return p.Entry.Level == "error" || p.Entry.Level == "warning"
	}
	return false
}
