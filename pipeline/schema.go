// Package pipeline is the vocabulary that every stage of Penstock speaks: the
// schema of the data, the contracts of sources, operators and sinks, and what
// they are handed when they are built.
//
// Arrow ownership has one rule everywhere: arguments are borrowed, results are
// owned. Whoever keeps an argument past the return of the call retains it.
package pipeline

import "github.com/apache/arrow/go/v17/arrow"

// Column positions in [Readings], the narrow table that every source makes.
const (
	ColTime     = iota // timestamp[ns, UTC]: source time of the sample
	ColTag             // dictionary<int32, utf8>: stable tag name
	ColValue           // float64, nullable: numeric value in the tag's unit
	ColText            // utf8, nullable: strings and enum names
	ColQuality         // uint32: OPC UA StatusCode, 0 is Good
	ColReceived        // timestamp[ns, UTC]: when ingest took it
)

// Names of the columns that operators and sinks look for.
const (
	NameTime     = "time"
	NameTag      = "tag"
	NameValue    = "value"
	NameText     = "text"
	NameQuality  = "quality"
	NameReceived = "received"
)

var (
	// TimeType is the type of every time column: nanoseconds, UTC.
	TimeType = &arrow.TimestampType{Unit: arrow.Nanosecond, TimeZone: "UTC"}
	// TagType is the type of every tag column. The dictionary of one record
	// holds just the tags of that record, in the order of their runs, so the
	// index of a row is the number of its run.
	TagType = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}

	// Readings is the schema of every batch that a source makes.
	Readings = arrow.NewSchema([]arrow.Field{
		{Name: NameTime, Type: TimeType},
		{Name: NameTag, Type: TagType},
		{Name: NameValue, Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: NameText, Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: NameQuality, Type: arrow.PrimitiveTypes.Uint32},
		{Name: NameReceived, Type: TimeType},
	}, nil)

	// AlertEvents is the schema of what an alert rule emits: one row per
	// change of state. `id` is the same for the raise and the clear of one
	// alert and the same on every replay. `time` is the event time of the
	// change, `raised` that of the raise.
	AlertEvents = arrow.NewSchema([]arrow.Field{
		{Name: NameTime, Type: TimeType},
		{Name: NameTag, Type: TagType},
		{Name: "id", Type: arrow.BinaryTypes.String},
		{Name: "rule", Type: arrow.BinaryTypes.String},
		{Name: "asset", Type: arrow.BinaryTypes.String},
		{Name: "severity", Type: arrow.BinaryTypes.String},
		{Name: "state", Type: arrow.BinaryTypes.String}, // "raised" or "cleared"
		{Name: NameValue, Type: arrow.PrimitiveTypes.Float64, Nullable: true},
		{Name: "limit", Type: arrow.PrimitiveTypes.Float64},
		{Name: "raised", Type: TimeType},
		{Name: "message", Type: arrow.BinaryTypes.String},
	}, nil)
)

// MetaNode is the key of the schema metadata that names the graph node a
// record came from. The flow sets it on what it hands to sinks.
const MetaNode = "penstock.node"

// WithNode returns s with [MetaNode] set to node, other metadata kept.
func WithNode(s *arrow.Schema, node string) *arrow.Schema {
	m := s.Metadata().ToMap()
	m[MetaNode] = node
	md := arrow.MetadataFrom(m)
	return arrow.NewSchema(s.Fields(), &md)
}

// Node returns the graph node a record with schema s came from, or "".
func Node(s *arrow.Schema) string {
	md := s.Metadata()
	if i := md.FindKey(MetaNode); i >= 0 {
		return md.Values()[i]
	}
	return ""
}
