package wasm

import "github.com/penstock/penstock/operators/wasm/binfmt"

// MaxModuleSize bounds a .wasm file.
const MaxModuleSize = binfmt.MaxModuleSize

// PageSize is the unit of guest memory.
const PageSize = binfmt.PageSize
