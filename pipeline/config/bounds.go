package config

import (
	"fmt"

	"github.com/goccy/go-yaml/token"
)

// bounds refuses, token by token, what would take the parser deep or long.
// Its recursion: block nesting needs indentation, which the file's size
// bounds, except for what opens several levels on one line. Its time: that is
// quadratic in the keys of a block mapping, in values left empty, and in some
// rare forms.
type bounds struct {
	flow   int // open brackets
	line   int
	opened int // levels that this line opens in block style
	odd    int
	open   []blockMapping // those around this token, outermost first
}

type blockMapping struct{ column, keys int }

// token returns why the file is refused at tk, or "".
func (b *bounds) token(tk *token.Token) (message, hint string) {
	if tk.Position.Line != b.line {
		b.line, b.opened = tk.Position.Line, 0
		b.close(tk.Position.Column)
	}
	if b.flow == 0 {
		switch tk.Type {
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType, token.AnchorType, token.TagType:
			b.opened++
		}
	}
	switch tk.Type {
	case token.SequenceStartType, token.MappingStartType:
		b.flow++
	case token.SequenceEndType, token.MappingEndType:
		b.flow = max(b.flow-1, 0)
	case token.MergeKeyType, token.LiteralType, token.FoldedType, token.DocumentHeaderType, token.AnchorType, token.MappingKeyType:
		b.odd++
	case token.SequenceEntryType:
		if isEmpty(tk, tk.Position.Column) {
			b.odd++
		}
	case token.MappingValueType:
		if b.flow == 0 && tk.Prev != nil {
			b.key(tk.Prev.Position.Column)
			if isEmpty(tk, tk.Prev.Position.Column) {
				b.odd++
			}
		}
	}
	switch {
	case b.flow > maxDepth || b.opened > maxDepth:
		return fmt.Sprintf("is nested more than %d deep", maxDepth), "flatten it"
	case len(b.open) > 0 && b.open[len(b.open)-1].keys > maxKeys:
		return fmt.Sprintf("the mapping has more than %d keys", maxKeys), "split it"
	case b.odd > maxOdd:
		return fmt.Sprintf("the file has more than %d empty values, anchors, merge keys and text blocks", maxOdd), "give each key a value, in the plain form key: value"
	}
	return "", ""
}

// close ends the mappings that are indented deeper than column.
func (b *bounds) close(column int) {
	for len(b.open) > 0 && b.open[len(b.open)-1].column > column {
		b.open = b.open[:len(b.open)-1]
	}
}

func (b *bounds) key(column int) {
	b.close(column)
	if n := len(b.open); n == 0 || b.open[n-1].column < column {
		b.open = append(b.open, blockMapping{column: column})
	}
	b.open[len(b.open)-1].keys++
}

// isEmpty reports whether nothing belongs to tk, a dash or a colon of what
// begins at column: the next token is on another line and not further in.
func isEmpty(tk *token.Token, column int) bool {
	next := tk.Next
	for next != nil && next.Type == token.CommentType {
		next = next.Next
	}
	if next == nil || next.Position.Line == tk.Position.Line {
		return next == nil
	}
	// The dashes of a list may stand right below its key.
	list := tk.Type == token.MappingValueType && next.Type == token.SequenceEntryType
	return next.Position.Column < column || next.Position.Column == column && !list
}
