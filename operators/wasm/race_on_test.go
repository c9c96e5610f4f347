//go:build race

package wasm

// raceDetector says that times mean nothing in this build.
const raceDetector = true
