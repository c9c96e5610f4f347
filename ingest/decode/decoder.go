package decode

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"unsafe"

	"github.com/penstock/penstock/ingest"
	"github.com/penstock/penstock/pipeline"
)

// maxName bounds a tag name that comes in a payload.
const maxName = 512

// Decoder turns payloads into rows. It is not safe for concurrent use; it
// allocates nothing per message once its buffers have grown.
type Decoder struct {
	cfg     Config
	root    *node
	each    bool
	fields  bool
	unit    int64 // of a number that is a time, in ns; 0 goes by its size
	numTime bool  // a time may be a number
	strTime bool  // a time may be RFC 3339
	scanner scanner
	rows    []row
	scratch []byte // unescaped strings of the message

	// NoTime counts the readings that were dropped for want of a time, as
	// time_missing says. The caller resets it.
	NoTime int
}

type row struct {
	tag     ingest.TagID
	quality uint32
	time    int64
	value   float64
	kind    kind // number, text or null
	text    []byte
}

// New returns a decoder; what cfg leaves empty has its default.
func New(cfg Config) (*Decoder, error) {
	problems := pipeline.NewProblems()
	cfg.Validate(problems)
	for _, p := range problems.All() {
		return nil, fmt.Errorf("decode: %s: %s: %s", p.Path, p.Message, p.Hint)
	}
	cfg = cfg.WithDefaults()
	d := &Decoder{cfg: cfg, root: newNode(""), fields: len(cfg.Fields) > 0, numTime: cfg.TimeFormat != "rfc3339",
		strTime: cfg.TimeFormat == "rfc3339" || cfg.TimeFormat == "auto"}
	switch cfg.TimeFormat {
	case "s":
		d.unit = 1e9
	case "ms":
		d.unit = 1e6
	case "us":
		d.unit = 1e3
	case "ns":
		d.unit = 1
	}
	reading := d.root
	if cfg.Each != "" {
		d.each = true
		p, _ := parsePath(cfg.Each)
		reading = newNode("")
		d.root.descend(p.keys).each = reading
	}
	for slot, s := range [slots]string{slotValue: cfg.Value, slotTime: cfg.Time, slotQuality: cfg.Quality, slotTag: cfg.Tag} {
		if s == "" {
			continue
		}
		p, _ := parsePath(s)
		if p.message && d.each {
			d.root.descend(p.keys).slot = slots + slot
		} else {
			reading.descend(p.keys).slot = slot
		}
	}
	if d.fields {
		reading.fields = true
		if cfg.Fields[0] != "*" {
			d.scanner.only = map[string]struct{}{}
			for _, f := range cfg.Fields {
				p, _ := parsePath(f)
				d.scanner.only[joinKeys(p.keys)] = struct{}{}
			}
		}
	}
	return d, nil
}

func joinKeys(keys []string) string {
	s := keys[0]
	for _, k := range keys[1:] {
		s += "/" + k
	}
	return s
}

// Decode appends the readings of payload to b, with the tags of to, and
// returns how many there were. received is the time of arrival in ns since
// 1970. The payload is borrowed. A payload that is broken anywhere adds no
// rows: the error, an [*Error], says where and what was expected.
func (d *Decoder) Decode(b *ingest.Batcher, to *Target, payload []byte, received int64) (int, error) {
	if len(payload) > math.MaxInt32/2 {
		return 0, errAt(0, "expected at most %d bytes, found %d", math.MaxInt32/2, len(payload))
	}
	if err := d.scanner.scan(payload, d.root, !d.each); err != nil {
		return 0, err
	}
	if !d.scanner.sawEach {
		return 0, errAt(0, "expected an array of readings at %q, found nothing", d.cfg.Each)
	}
	d.rows, d.scratch = d.rows[:0], d.scratch[:0]
	for i := range d.scanner.elems {
		if err := d.reading(b, to, &d.scanner.elems[i], received); err != nil {
			return 0, err
		}
	}
	for i := range d.rows {
		switch r := &d.rows[i]; r.kind {
		case number:
			b.Append(r.tag, r.time, r.value, r.quality, received)
		case text:
			b.AppendText(r.tag, r.time, r.text, r.quality, received)
		default:
			b.AppendNull(r.tag, r.time, r.quality, received)
		}
	}
	return len(d.rows), nil
}

// token returns what a slot of the reading holds, its own or the message's.
func (d *Decoder) token(e *element, slot int) token {
	if t := e.tok[slot]; t.kind != absent {
		return t
	}
	return d.scanner.message[slot]
}

// reading turns one element into rows.
func (d *Decoder) reading(b *ingest.Batcher, to *Target, e *element, received int64) error {
	time, err := d.time(d.token(e, slotTime), received)
	if err != nil {
		return err
	}
	quality, err := d.quality(d.token(e, slotQuality))
	if err != nil {
		return err
	}
	n := 1
	if d.fields {
		n = int(e.fieldsTo - e.fieldsFrom)
	}
	if time == noTime {
		d.NoTime += n
		return nil
	}
	if d.fields {
		for _, f := range d.scanner.fields[e.fieldsFrom:e.fieldsTo] {
			name := d.scanner.names[f.nameStart:f.nameEnd]
			if err := d.row(b, to, name, f.tok, time, quality); err != nil {
				return err
			}
		}
		return nil
	}
	var name []byte
	if d.cfg.Tag != "" {
		t := d.token(e, slotTag)
		if t.kind != text {
			return errAt(d.place(t, e), "expected a string, the tag, at %q, found %s", d.cfg.Tag, t.kind)
		}
		if name = d.text(t); len(name) == 0 || len(name) > maxName {
			return errAt(int(t.start), "expected a tag of 1 to %d bytes at %q, found %d", maxName, d.cfg.Tag, len(name))
		}
	}
	v := d.token(e, slotValue)
	if v.kind == absent {
		return errAt(int(e.at), "expected a value at %q, found nothing", d.cfg.Value)
	}
	return d.row(b, to, name, v, time, quality)
}

func (d *Decoder) place(t token, e *element) int {
	if t.kind == absent {
		return int(e.at)
	}
	return int(t.start)
}

// row stages one row.
func (d *Decoder) row(b *ingest.Batcher, to *Target, name []byte, v token, time int64, quality uint32) error {
	r := row{time: time, quality: quality, kind: number}
	switch v.kind {
	case number:
		f, err := strconv.ParseFloat(d.view(v), 64)
		if err != nil {
			return errAt(int(v.start), "expected a number that fits 64 bits, found %.40s", d.view(v))
		}
		r.value = f
	case boolTrue:
		r.value = 1
	case boolFalse:
	case text:
		r.kind, r.text = text, d.text(v)
		if notNumber(r.text) {
			return errAt(int(v.start), "expected a value, found the string %q: send null for a missing value", r.text)
		}
	case null:
		r.kind = null
		if pipeline.IsGood(quality) {
			r.quality = pipeline.BadNoData
		}
	default:
		return errAt(int(v.start), "expected a number, boolean, string or null as the value, found %s", v.kind)
	}
	r.tag = to.lookup(b, name)
	d.rows = append(d.rows, r)
	return nil
}

// notNumber finds the ways in which devices write that they have no number.
func notNumber(s []byte) bool {
	if len(s) > 0 && (s[0] == '-' || s[0] == '+') {
		s = s[1:]
	}
	if len(s) != 3 && len(s) != 8 {
		return false
	}
	return bytes.EqualFold(s, []byte("nan")) || bytes.EqualFold(s, []byte("inf")) || bytes.EqualFold(s, []byte("infinity"))
}

func (d *Decoder) quality(t token) (uint32, error) {
	switch t.kind {
	case absent, null, boolTrue:
		return pipeline.Good, nil
	case boolFalse:
		return pipeline.Bad, nil
	case number:
		if q, err := strconv.ParseUint(d.view(t), 10, 32); err == nil {
			return uint32(q), nil
		}
	case text:
		switch s := d.text(t); {
		case bytes.EqualFold(s, []byte("good")):
			return pipeline.Good, nil
		case bytes.EqualFold(s, []byte("uncertain")):
			return pipeline.Uncertain, nil
		case bytes.EqualFold(s, []byte("bad")):
			return pipeline.Bad, nil
		}
	}
	return 0, errAt(int(t.start), "expected an OPC UA status code, good, uncertain, bad or a boolean at %q, found %.40s", d.cfg.Quality, d.view(t))
}

// view returns the bytes of a token without copying them. It lives as long as
// the payload.
func (d *Decoder) view(t token) string {
	b := d.scanner.data[t.start:t.end]
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// text returns a string's content, unescaped. It lives as long as the message.
func (d *Decoder) text(t token) []byte {
	b := d.scanner.data[t.start:t.end]
	if !t.escaped {
		return b
	}
	from := len(d.scratch)
	d.scratch = unescape(d.scratch, b)
	return d.scratch[from:len(d.scratch):len(d.scratch)]
}
