// Command penstock is an industrial stream processor: sensor data from OPC UA
// and MQTT, through a columnar graph with WebAssembly detectors, to InfluxDB
// and alert sinks. See README.md.
package main

import (
	"os"

	"github.com/penstock/penstock/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
