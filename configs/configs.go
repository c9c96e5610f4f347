// Package configs holds the example pipelines and the JSON Schema of the YAML.
package configs

import _ "embed"

// Demo is the pipeline of `penstock demo`.
//
//go:embed demo.yaml
var Demo []byte

// Schema is the JSON Schema of the YAML, with the descriptions of all keys.
// `go test ./configs -update` writes it from the components as they are.
//
//go:embed penstock.schema.json
var Schema []byte
