// Package simulators holds what the simulated plant and the simulated devices
// and servers that publish it have in common.
package simulators

// Sample is one reading of a simulated sensor.
type Sample struct {
	Tag     string  // stable tag name, such as "plant1/hall2/pump3/vibration_x"
	Time    int64   // source time, ns since 1970
	Value   float64 // in the tag's unit; may be NaN when Quality is Bad
	Quality uint32  // OPC UA StatusCode, 0 is Good
}
