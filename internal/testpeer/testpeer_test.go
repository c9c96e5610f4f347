package testpeer

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMosquittoAsksForPasswordOverTLSAndKeepsSessions(t *testing.T) {
	b := Mosquitto(t, MosquittoConfig{TLS: true, User: "penstock", Password: "geheim"})
	client := func(id, password string) mqtt.Client {
		return mqtt.NewClient(mqtt.NewClientOptions().AddBroker(b.URL).SetClientID(id).SetUsername("penstock").SetPassword(password).
			SetTLSConfig(b.Certs.ClientTLS(t)).SetCleanSession(false).SetAutoReconnect(false).SetConnectRetry(false))
	}
	wait := func(tok mqtt.Token) error {
		require.True(t, tok.WaitTimeout(10*time.Second))
		return tok.Error()
	}
	require.Error(t, wait(client("wrong", "falsch").Connect()))

	sub := client("sub", "geheim")
	require.NoError(t, wait(sub.Connect()))
	require.NoError(t, wait(sub.Subscribe("a", 1, nil)))
	sub.Disconnect(100)
	pub := client("pub", "geheim")
	require.NoError(t, wait(pub.Connect()))
	require.NoError(t, wait(pub.Publish("a", 1, false, "kept")))
	pub.Disconnect(100)

	b.Restart()
	got := make(chan string, 1)
	sub = mqtt.NewClient(mqtt.NewClientOptions().AddBroker(b.URL).SetClientID("sub").SetUsername("penstock").SetPassword("geheim").
		SetTLSConfig(b.Certs.ClientTLS(t)).SetCleanSession(false).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { got <- string(m.Payload()) }))
	require.NoError(t, wait(sub.Connect()))
	defer sub.Disconnect(100)
	select {
	case m := <-got:
		require.Equal(t, "kept", m)
	case <-time.After(10 * time.Second):
		t.Fatal("the message did not survive the restart")
	}
}

func TestInfluxKeepsDataOverRestart(t *testing.T) {
	db := Influx(t, InfluxConfig{Auth: true})
	db.Write("m,tag=a value=1.5 1700000000000000000\nm,tag=a value=2.5 1700000001000000000\n")
	db.Restart()
	require.EqualValues(t, 2, db.Count("m", "value"))
	rows := db.Query(`from(bucket: "penstock") |> range(start: 2000-01-01T00:00:00Z) |> sort(columns: ["_time"])`)
	require.Len(t, rows, 2)
	require.Equal(t, 1.5, rows[0]["_value"])
	require.Equal(t, "a", rows[0]["tag"])
	require.Equal(t, time.Unix(1700000000, 0).UTC(), rows[0]["_time"])
	resp, err := db.client.Post(db.URL+"/api/v2/write?bucket=penstock", "text/plain", strings.NewReader("m value=1"))
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
}

func TestExpiredCertificateIsRefused(t *testing.T) {
	for _, expired := range []bool{false, true} {
		certs := NewCerts(t, CertOptions{Expired: expired})
		l, err := tls.Listen("tcp", "127.0.0.1:0", certs.ServerTLS(t))
		require.NoError(t, err)
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = io.Copy(io.Discard, c)
				c.Close()
			}
		}()
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", l.Addr().String(), certs.ClientTLS(t))
		if expired {
			require.ErrorContains(t, err, "expired")
		} else {
			require.NoError(t, err)
			c.Close()
		}
		l.Close()
	}
}

func TestNullHTTPCounts(t *testing.T) {
	s := NullHTTP(t, func(_ *http.Request, _ []byte, n int64) int {
		if n == 1 {
			return http.StatusServiceUnavailable
		}
		return http.StatusNoContent
	})
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for range 3 {
		resp, err := c.Post(s.URL, "text/plain", strings.NewReader("a\nb\n"))
		require.NoError(t, err)
		resp.Body.Close()
	}
	s.WaitLines(t, 4, 5*time.Second)
	require.EqualValues(t, 4, s.Lines())
	require.EqualValues(t, 8, s.Bytes())
	require.EqualValues(t, 3, s.Requests())
}

func TestNodeOPCUAPublishesAndRestarts(t *testing.T) {
	s := NodeOPCUA(t, NodeOPCUAConfig{Counters: 3})
	truths := s.Publish(2)
	require.Len(t, truths, 6)
	require.Equal(t, "Counter2", truths[5].Tag)
	require.Equal(t, 2002.5, truths[5].Value)
	require.WithinDuration(t, time.Now(), truths[5].Time, time.Minute)
	endpoint := s.Endpoint
	s.Restart()
	require.Len(t, s.Publish(1), 3)
	require.Equal(t, endpoint, s.Endpoint)
	require.NoError(t, dial(t.Context(), strings.TrimPrefix(endpoint, "opc.tcp://")))
}
