package decode

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a payload, and with it the scanner's stack.
const maxDepth = 64

// maxReadings bounds the readings of one message.
const maxReadings = 1 << 16

type kind uint8

const (
	absent kind = iota
	null
	boolTrue
	boolFalse
	number
	text
	object
	list
)

var kindNames = [...]string{"nothing", "null", "true", "false", "a number", "a string", "an object", "an array"}

func (k kind) String() string { return kindNames[k] }

// token is one JSON value, as its place in the payload. For a string it is
// what stands between the quotes.
type token struct {
	start, end int32
	kind       kind
	escaped    bool // a string that has a backslash in it
}

// Slots of a token that a path points at.
const (
	slotValue = iota
	slotTime
	slotQuality
	slotTag
	slots
)

// node is a step of the paths that are looked for, merged into a tree.
type node struct {
	key    string
	index  int // key as an array position, or -1
	slot   int // slot that takes the token, or -1; slots and above are those of the message
	each   *node
	fields bool // every field below becomes a reading
	kids   []*node
}

func newNode(key string) *node { return &node{key: key, index: position(key), slot: -1} }

func (n *node) descend(keys []string) *node {
next:
	for _, k := range keys {
		for _, kid := range n.kids {
			if kid.key == k {
				n = kid
				continue next
			}
		}
		kid := newNode(k)
		n.kids = append(n.kids, kid)
		n = kid
	}
	return n
}

// field is one member of an object whose fields are readings.
type field struct {
	nameStart, nameEnd int32 // in scanner.names
	tok                token
}

// element is one reading, or one object whose fields are readings.
type element struct {
	tok                  [slots]token
	fieldsFrom, fieldsTo int32
	at                   int32
}

// scanner reads one JSON document (RFC 8259) in one pass, checks all of it,
// and notes the tokens that the paths point at. Nothing is converted or copied.
type scanner struct {
	data    []byte
	message [slots]token
	elems   []element
	fields  []field
	names   []byte              // names of the fields, one after the other
	prefix  []byte              // name of the object being read, with a "/" behind it
	only    map[string]struct{} // the fields wanted; nil for all
	key     []byte              // an unescaped key
	sawEach bool                // the array of readings was there
}

// Error says what is wrong with a payload and where.
type Error struct {
	Offset  int // byte offset in the payload
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("byte %d: %s", e.Offset, e.Message) }

func errAt(i int, format string, args ...any) error {
	return &Error{Offset: i, Message: fmt.Sprintf(format, args...)}
}

// scan reads the whole document.
func (s *scanner) scan(data []byte, root *node, single bool) error {
	s.data = data
	s.message = [slots]token{}
	s.sawEach = single
	s.elems, s.fields, s.names, s.prefix = s.elems[:0], s.fields[:0], s.names[:0], s.prefix[:0]
	i := s.space(0)
	if i == len(data) {
		return errAt(0, "expected JSON, found an empty payload")
	}
	if single {
		s.elems = append(s.elems, element{at: int32(i)})
	}
	i, err := s.value(i, root, 0, false)
	if err != nil {
		return err
	}
	if i = s.space(i); i < len(data) {
		return errAt(i, "expected the end of the payload, found %s", s.found(i))
	}
	if single {
		s.elems[0].fieldsTo = int32(len(s.fields))
	}
	return nil
}

func (s *scanner) space(i int) int {
	for i < len(s.data) && (s.data[i] == ' ' || s.data[i] == '\n' || s.data[i] == '\t' || s.data[i] == '\r') {
		i++
	}
	return i
}

// found names what stands at i, for an error.
func (s *scanner) found(i int) string {
	if i >= len(s.data) {
		return "the end of the payload"
	}
	j := i
	for j < len(s.data) && j < i+20 && s.data[j] > ' ' && s.data[j] < 0x7f && s.data[j] != ',' && s.data[j] != '}' && s.data[j] != ']' {
		j++
	}
	if j == i {
		return fmt.Sprintf("%q", s.data[i:i+1])
	}
	return fmt.Sprintf("%q", s.data[i:j])
}

// value reads the value at i, for which n (or nil) is looked for. With asField
// it is a member of an object whose fields are readings, and s.prefix is its
// name.
func (s *scanner) value(i int, n *node, depth int, asField bool) (int, error) {
	if i >= len(s.data) {
		return i, errAt(i, "expected a value, found the end of the payload")
	}
	tok := token{start: int32(i)}
	var err error
	j := i
	switch c := s.data[i]; {
	case c == '{':
		tok.kind = object
		j, err = s.object(i, n, depth+1, asField)
	case c == '[':
		tok.kind = list
		j, err = s.array(i, n, depth+1)
	case c == '"':
		tok.kind = text
		j, tok.escaped, err = s.str(i)
		tok.start++
		tok.end = int32(j - 1)
	case c == '-' || c >= '0' && c <= '9':
		tok.kind = number
		j, err = s.number(i)
	case c == 't':
		tok.kind = boolTrue
		j, err = s.literal(i, "true")
	case c == 'f':
		tok.kind = boolFalse
		j, err = s.literal(i, "false")
	case c == 'n':
		tok.kind = null
		j, err = s.literal(i, "null")
	default:
		return i, s.noValue(i)
	}
	if err != nil {
		return j, err
	}
	if tok.kind != text {
		tok.end = int32(j)
	}
	switch {
	case n != nil && n.slot >= 0:
		if n.slot >= slots {
			s.message[n.slot-slots] = tok
		} else if len(s.elems) > 0 {
			s.elems[len(s.elems)-1].tok[n.slot] = tok
		}
	case n != nil && n.each != nil:
		if tok.kind != list {
			return i, errAt(i, "expected an array of readings, found %s", tok.kind)
		}
		s.sawEach = true
	case n != nil && n.fields && tok.kind != object:
		return i, errAt(i, "expected an object of fields, found %s", tok.kind)
	case asField && tok.kind != object && tok.kind != list:
		if err := s.field(tok); err != nil {
			return i, err
		}
	}
	return j, nil
}

// noValue explains the things that are not JSON but are often sent.
func (s *scanner) noValue(i int) error {
	for _, bad := range [...]string{"NaN", "nan", "Infinity", "inf", "Inf", "+"} {
		if len(s.data)-i >= len(bad) && string(s.data[i:i+len(bad)]) == bad {
			return errAt(i, "expected a value, found %s, which is not JSON: send null for a missing value", s.found(i))
		}
	}
	return errAt(i, "expected a value, found %s", s.found(i))
}

func (s *scanner) literal(i int, word string) (int, error) {
	if len(s.data)-i < len(word) || string(s.data[i:i+len(word)]) != word {
		return i, s.noValue(i)
	}
	return i + len(word), nil
}

// field notes a field under the name in s.prefix.
func (s *scanner) field(tok token) error {
	if s.only != nil {
		if _, ok := s.only[string(s.prefix)]; !ok {
			return nil
		}
	}
	if len(s.fields) >= maxReadings {
		return errAt(int(tok.start), "expected at most %d readings in a message", maxReadings)
	}
	from := len(s.names)
	s.names = append(s.names, s.prefix...)
	s.fields = append(s.fields, field{nameStart: int32(from), nameEnd: int32(len(s.names)), tok: tok})
	return nil
}

func (s *scanner) object(i int, n *node, depth int, asField bool) (int, error) {
	if depth > maxDepth {
		return i, errAt(i, "expected at most %d levels of nesting", maxDepth)
	}
	asField = asField || n != nil && n.fields
	base := len(s.prefix)
	i = s.space(i + 1)
	if i < len(s.data) && s.data[i] == '}' {
		return i + 1, nil
	}
	for {
		if i >= len(s.data) || s.data[i] != '"' {
			return i, errAt(i, `expected a key in quotes, found %s`, s.found(i))
		}
		j, escaped, err := s.str(i)
		if err != nil {
			return j, err
		}
		key := s.data[i+1 : j-1]
		if escaped {
			s.key = unescape(s.key[:0], key)
			key = s.key
		}
		var kid *node
		if n != nil {
			for _, k := range n.kids {
				if k.key == string(key) {
					kid = k
					break
				}
			}
		}
		if asField {
			if base > 0 {
				s.prefix = append(s.prefix[:base], '/')
			}
			s.prefix = append(s.prefix, key...)
		}
		if i = s.space(j); i >= len(s.data) || s.data[i] != ':' {
			return i, errAt(i, `expected ":", found %s`, s.found(i))
		}
		if i, err = s.value(s.space(i+1), kid, depth, asField); err != nil {
			return i, err
		}
		s.prefix = s.prefix[:base]
		if i = s.space(i); i < len(s.data) && s.data[i] == ',' {
			i = s.space(i + 1)
			continue
		}
		if i < len(s.data) && s.data[i] == '}' {
			return i + 1, nil
		}
		return i, errAt(i, `expected "," or "}", found %s`, s.found(i))
	}
}

func (s *scanner) array(i int, n *node, depth int) (int, error) {
	if depth > maxDepth {
		return i, errAt(i, "expected at most %d levels of nesting", maxDepth)
	}
	i = s.space(i + 1)
	if i < len(s.data) && s.data[i] == ']' {
		return i + 1, nil
	}
	for at := 0; ; at++ {
		var kid *node
		each := n != nil && n.each != nil
		if each {
			if len(s.elems) >= maxReadings {
				return i, errAt(i, "expected at most %d readings in a message", maxReadings)
			}
			kid = n.each
			s.elems = append(s.elems, element{at: int32(i), fieldsFrom: int32(len(s.fields))})
		} else if n != nil {
			for _, k := range n.kids {
				if k.index == at {
					kid = k
					break
				}
			}
		}
		var err error
		if i, err = s.value(i, kid, depth, false); err != nil {
			return i, err
		}
		if each {
			s.elems[len(s.elems)-1].fieldsTo = int32(len(s.fields))
		}
		if i = s.space(i); i < len(s.data) && s.data[i] == ',' {
			i = s.space(i + 1)
			continue
		}
		if i < len(s.data) && s.data[i] == ']' {
			return i + 1, nil
		}
		return i, errAt(i, `expected "," or "]", found %s`, s.found(i))
	}
}

// str reads the string whose opening quote is at i and returns the position
// behind its closing quote.
func (s *scanner) str(i int) (end int, escaped bool, err error) {
	for j := i + 1; j < len(s.data); j++ {
		switch c := s.data[j]; {
		case c == '"':
			return j + 1, escaped, nil
		case c == '\\':
			escaped = true
			j++
			if j >= len(s.data) {
				break
			}
			switch s.data[j] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for k := 0; k < 4; k++ {
					j++
					if j >= len(s.data) || hex(s.data[j]) < 0 {
						return j, false, errAt(j, `expected four hexadecimal digits after \u`)
					}
				}
			default:
				return j, false, errAt(j, "expected an escape such as \\n, found %s", s.found(j))
			}
		case c < 0x20:
			return j, false, errAt(j, "expected control characters in a string to be escaped, found %q", c)
		}
	}
	return len(s.data), false, errAt(len(s.data), "expected the end of the string that starts at byte %d", i)
}

func (s *scanner) number(i int) (int, error) {
	d, j := s.data, i
	if d[j] == '-' {
		j++
	}
	switch {
	case j < len(d) && d[j] == '0':
		j++
	case j < len(d) && d[j] >= '1' && d[j] <= '9':
		j = digits(d, j)
	default:
		if j < len(d) && (d[j] == 'I' || d[j] == 'i' || d[j] == 'N' || d[j] == 'n') {
			return i, errAt(i, "expected a number, found %s, which is not JSON: send null for a missing value", s.found(i))
		}
		return j, errAt(j, "expected a digit, found %s", s.found(j))
	}
	if j < len(d) && d[j] == '.' {
		k := digits(d, j+1)
		if k == j+1 {
			return k, errAt(k, "expected a digit after the decimal point, found %s", s.found(k))
		}
		j = k
	}
	if j < len(d) && (d[j] == 'e' || d[j] == 'E') {
		j++
		if j < len(d) && (d[j] == '+' || d[j] == '-') {
			j++
		}
		k := digits(d, j)
		if k == j {
			return k, errAt(k, "expected a digit in the exponent, found %s", s.found(k))
		}
		j = k
	}
	return j, nil
}

func digits(d []byte, i int) int {
	for i < len(d) && d[i] >= '0' && d[i] <= '9' {
		i++
	}
	return i
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// unescape appends the string s, which the scanner has checked, to dst. A lone
// surrogate becomes U+FFFD.
func unescape(dst, s []byte) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			dst = append(dst, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := rune4(s[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				second := rune(utf8.RuneError)
				if i+6 < len(s) && s[i+1] == '\\' && s[i+2] == 'u' {
					second = rune4(s[i+3:])
				}
				if r = utf16.DecodeRune(r, second); r != utf8.RuneError {
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, s[i])
		}
	}
	return dst
}

func rune4(s []byte) rune {
	return rune(hex(s[0])<<12 | hex(s[1])<<8 | hex(s[2])<<4 | hex(s[3]))
}
