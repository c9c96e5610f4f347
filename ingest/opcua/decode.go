package opcua

import (
	"strconv"
	"time"

	"github.com/gopcua/opcua/ua"

	"github.com/penstock/penstock/ingest"
)

// overflow are the info bits of a status code with which the server says that
// the queue of the item was too small (OPC UA Part 4, 7.39).
const overflow = 0x0480

// decode puts the notifications of the current delivery into the batcher,
// until that is full, and reports whether the delivery is done.
func (s *Source) decode() bool {
	d := s.current
	for s.group < len(d.message.NotificationData) {
		change, ok := d.message.NotificationData[s.group].Value.(*ua.DataChangeNotification)
		if ok {
			for s.row < len(change.MonitoredItems) {
				if s.batcher.Full() {
					return false
				}
				s.reading(d, change.MonitoredItems[s.row])
				s.row++
			}
		}
		s.group, s.row = s.group+1, 0
	}
	s.current, s.group, s.row = nil, 0, 0
	return true
}

// reading puts one notification into the batcher.
func (s *Source) reading(d *delivery, n *ua.MonitoredItemNotification) {
	if n.ClientHandle >= uint32(len(d.table)) {
		s.leftOut.unknown++
		return
	}
	it := d.table[n.ClientHandle]
	if !it.resolved {
		it.id, it.resolved = s.batcher.Tag(it.tag), true
	}
	dv := n.Value
	quality := uint32(dv.Status)
	if quality&overflow == overflow {
		s.leftOut.overflowed++
		s.leftOut.overflowTag = it.tag
	}
	t := d.received
	switch {
	case s.cfg.Timestamps == "received":
	case s.cfg.Timestamps == "source" && !dv.SourceTimestamp.IsZero():
		t = dv.SourceTimestamp.UnixNano()
	case !dv.ServerTimestamp.IsZero():
		t = dv.ServerTimestamp.UnixNano()
	}
	if !dv.Has(ua.DataValueValue) || dv.Value == nil || dv.Value.Type() == ua.TypeIDNull {
		s.batcher.AppendNull(it.id, t, quality, d.received)
		return
	}
	s.value(it, t, dv.Value.Value(), quality, d.received)
}

// value puts a value of any type in. Numbers become float64 (whole numbers
// beyond 2^53 lose their last digits), booleans 0 and 1, DateTime seconds since
// 1970, texts, names and ids text. Of arrays each element gets its own tag.
func (s *Source) value(it *item, t int64, value any, q uint32, received int64) {
	if f, ok := number(value); ok {
		s.batcher.Append(it.id, t, f, q, received)
		return
	}
	if text, ok := text(value); ok {
		s.batcher.AppendText(it.id, t, []byte(text), q, received)
		return
	}
	switch v := value.(type) {
	case time.Time: // the zero one: no time
		s.batcher.AppendNull(it.id, t, q, received)
	case []float64:
		elements(s, it, v, t, q, received)
	case []float32:
		elements(s, it, v, t, q, received)
	case []int8:
		elements(s, it, v, t, q, received)
	case ua.ByteArray:
		elements(s, it, v, t, q, received)
	case []int16:
		elements(s, it, v, t, q, received)
	case []uint16:
		elements(s, it, v, t, q, received)
	case []int32:
		elements(s, it, v, t, q, received)
	case []uint32:
		elements(s, it, v, t, q, received)
	case []int64:
		elements(s, it, v, t, q, received)
	case []uint64:
		elements(s, it, v, t, q, received)
	case []bool:
		elements(s, it, v, t, q, received)
	case []string:
		elements(s, it, v, t, q, received)
	case []time.Time:
		elements(s, it, v, t, q, received)
	case []*ua.LocalizedText:
		elements(s, it, v, t, q, received)
	case []*ua.Variant:
		inner := make([]any, len(v))
		for i, e := range v {
			inner[i] = e.Value()
		}
		elements(s, it, inner, t, q, received)
	default: // structures, byte strings, matrices
		s.leftOut.unsupported++
		s.oddity(it, "values of this type are not read", value)
	}
}

func number(value any) (float64, bool) {
	switch v := value.(type) {
	case float64:
		return v, true
	case float32:
		return float64(v), true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int32:
		return float64(v), true
	case uint32:
		return float64(v), true
	case int16:
		return float64(v), true
	case uint16:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case uint8:
		return float64(v), true
	case int8:
		return float64(v), true
	case time.Time:
		if v.IsZero() {
			return 0, false
		}
		return float64(v.UnixMicro()) / 1e6, true
	case ua.StatusCode:
		return float64(v), true
	}
	return 0, false
}

func text(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, true
	case *ua.LocalizedText:
		return v.Text, true
	case *ua.QualifiedName:
		return v.Name, true
	case *ua.GUID:
		return v.String(), true
	case *ua.NodeID:
		return v.String(), true
	case *ua.ExpandedNodeID:
		return v.String(), true
	case ua.XMLElement:
		return string(v), true
	}
	return "", false
}

// elements puts the elements of an array in, each under its own tag.
func elements[T any](s *Source, it *item, values []T, t int64, q uint32, received int64) {
	if len(values) == 0 {
		s.batcher.AppendNull(it.id, t, q, received)
		return
	}
	if over := len(values) - s.cfg.MaxArray; over > 0 {
		s.leftOut.long += over
		s.oddity(it, "the array is longer than max_array; its end is not read", len(values))
		values = values[:s.cfg.MaxArray]
	}
	for i := range values {
		if i == len(it.elements) {
			it.elements = append(it.elements, s.batcher.Tag(it.tag+"["+strconv.Itoa(i)+"]"))
		}
		element(s, it, it.elements[i], values[i], t, q, received)
	}
}

func element(s *Source, it *item, id ingest.TagID, value any, t int64, q uint32, received int64) {
	if f, ok := number(value); ok {
		s.batcher.Append(id, t, f, q, received)
	} else if text, ok := text(value); ok {
		s.batcher.AppendText(id, t, []byte(text), q, received)
	} else {
		s.leftOut.unsupported++
		s.oddity(it, "elements of this type are not read", value)
	}
}

// oddity logs once for each item why values of it are left out.
func (s *Source) oddity(it *item, why string, value any) {
	if it.odd {
		return
	}
	it.odd = true
	if n, ok := value.(int); ok {
		s.log.Warn("values are left out: "+why, "node", it.text, "tag", it.tag, "elements", n, "max_array", s.cfg.MaxArray)
		return
	}
	s.log.Warn("values are left out: "+why, "node", it.text, "tag", it.tag, "type", typeName(value))
}

func typeName(value any) string {
	if eo, ok := value.(*ua.ExtensionObject); ok {
		return "structure " + eo.TypeID.NodeID.String()
	}
	if v, err := ua.NewVariant(value); err == nil {
		return v.Type().String()
	}
	return "unknown"
}

// leftOut counts what did not become a row since the last report.
type leftOut struct {
	unknown, unsupported, long, overflowed int
	overflowTag                            string
}

// report counts what was left out. Values that were decoded count as ingested
// too; those that overflowed at the server never came.
func (s *Source) report() {
	l := s.leftOut
	if l == (leftOut{}) {
		return
	}
	s.leftOut = leftOut{}
	m, name := s.env.Meter, s.env.Name
	m.Ingested(name, l.unknown+l.unsupported+l.long)
	m.Dropped(name, "unknown_handle", l.unknown)
	m.Dropped(name, "unsupported_type", l.unsupported)
	m.Dropped(name, "array_too_long", l.long)
	m.Dropped(name, "server_queue_overflow", l.overflowed)
	if l.overflowed > 0 && time.Since(s.overflowLogged) > 10*time.Second {
		s.overflowLogged = time.Now()
		s.log.Warn("the server's queue overflowed: values are lost; raise queue_size or shorten publishing_interval", "tag", l.overflowTag, "overflows", l.overflowed)
	}
}
