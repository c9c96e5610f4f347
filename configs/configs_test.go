package configs_test

import (
	"bytes"
	"encoding/pem"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/app"
	"github.com/penstock/penstock/pipeline/config"
)

var update = flag.Bool("update", false, "write penstock.schema.json")

// certificate writes a PEM file that is a certificate.
func certificate(t *testing.T) string {
	t.Helper()
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	srv.Close()
	path := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	require.NoError(t, os.WriteFile(path, block, 0o600))
	return path
}

// The examples are valid, graph and schemas of every edge included.
func TestExamples(t *testing.T) {
	cert := certificate(t)
	for k, v := range map[string]string{
		"PENSTOCK_DIR": t.TempDir(), "MQTT_URL": "ssl://broker:8883", "MQTT_CA": cert, "MQTT_USER": "u", "MQTT_PASSWORD": "p",
		"OPCUA_ENDPOINT": "opc.tcp://plc:4840", "OPCUA_SERVER_CERT": cert, "OPCUA_USER": "u", "OPCUA_PASSWORD": "p",
		"INFLUX_URL": "http://influx:8086", "INFLUX_ORG": "o", "INFLUX_BUCKET": "b", "INFLUX_TOKEN": "t", "PAGER_URL": "http://pager:8000/alerts",
		"PENSTOCK_DEMO_DIR": t.TempDir(), "PENSTOCK_DEMO_OPCUA": "opc.tcp://127.0.0.1:4840", "PENSTOCK_DEMO_MQTT": "tcp://127.0.0.1:1883", "PENSTOCK_DEMO_HTTP": "127.0.0.1:0",
	} {
		t.Setenv(k, v)
	}
	files, err := filepath.Glob("*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(f, func(t *testing.T) {
			_, g, err := app.Load(t.Context(), f)
			require.NoError(t, err)
			t.Log("\n" + g.Text())
		})
	}
}

// penstock.schema.json is that of the components as they are.
func TestSchemaIsCurrent(t *testing.T) {
	reg := app.Registry()
	var err error
	reg.Docs, err = config.ReadDocs("..")
	require.NoError(t, err)
	want, err := config.JSONSchema(reg)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile("penstock.schema.json", want, 0o644))
	}
	got, err := os.ReadFile("penstock.schema.json")
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "out of date: run go test ./configs -update")
}
