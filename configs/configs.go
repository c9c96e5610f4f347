// Package configs holds the example pipelines and the JSON Schema of the YAML.
package configs

import _ "embed"

// Demo is the pipeline of `penstock demo`.
//
//go:embed demo.yaml
var Demo []byte
