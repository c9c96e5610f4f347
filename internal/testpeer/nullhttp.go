package testpeer

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// NullHTTPServer accepts every request, counts what it holds and forgets it.
type NullHTTPServer struct {
	URL string

	mu                     sync.Mutex
	changed                chan struct{} // closed and replaced at each request
	lines, bytes, requests int64
	answer                 func(r *http.Request, body []byte, request int64) int
	server                 *httptest.Server
}

// NullHTTP starts a server. answer, when not nil, chooses the status of each
// request, counted from 1, and sees its unpacked body; a request answered with
// 300 or more does not count lines or bytes.
func NullHTTP(t testing.TB, answer func(r *http.Request, body []byte, request int64) int) *NullHTTPServer {
	t.Helper()
	s := &NullHTTPServer{changed: make(chan struct{}), answer: answer}
	s.server = httptest.NewServer(http.HandlerFunc(s.serve))
	s.URL = s.server.URL
	t.Cleanup(s.server.Close)
	return s
}

func (s *NullHTTPServer) serve(w http.ResponseWriter, r *http.Request) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = z
	}
	data, err := io.ReadAll(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.requests++
	n := s.requests
	s.mu.Unlock()
	status := http.StatusNoContent
	if s.answer != nil {
		status = s.answer(r, data, n)
	}
	s.mu.Lock()
	if status < 300 {
		s.lines += int64(bytes.Count(data, []byte{'\n'}))
		s.bytes += int64(len(data))
	}
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if status >= 300 {
		http.Error(w, http.StatusText(status), status)
		return
	}
	w.WriteHeader(status)
}

// Lines returns how many line ends were accepted.
func (s *NullHTTPServer) Lines() int64 { s.mu.Lock(); defer s.mu.Unlock(); return s.lines }

// Bytes returns how many unpacked bytes were accepted.
func (s *NullHTTPServer) Bytes() int64 { s.mu.Lock(); defer s.mu.Unlock(); return s.bytes }

// Requests returns how many requests came, refused ones included.
func (s *NullHTTPServer) Requests() int64 { s.mu.Lock(); defer s.mu.Unlock(); return s.requests }

// WaitLines waits until at least n lines were accepted, or fails the test.
func (s *NullHTTPServer) WaitLines(t testing.TB, n int64, timeout time.Duration) {
	t.Helper()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		s.mu.Lock()
		have, changed := s.lines, s.changed
		s.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			t.Fatalf("%d of %d lines after %v", have, n, timeout)
		}
	}
}
