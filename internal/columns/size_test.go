package columns

import (
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
)

func TestSize(t *testing.T) {
	b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{
		{Name: "tag", Type: pipeline.TagType}, {Name: "text", Type: arrow.BinaryTypes.String}, {Name: "flag", Type: arrow.FixedWidthTypes.Boolean}, {Name: "value", Type: arrow.PrimitiveTypes.Float64}}, nil))
	defer b.Release()
	for i := range 16 {
		require.NoError(t, b.Field(0).(*array.BinaryDictionaryBuilder).AppendString("tag"))
		b.Field(1).(*array.StringBuilder).Append(strings.Repeat("x", i))
		b.Field(2).(*array.BooleanBuilder).Append(true)
		b.Field(3).(*array.Float64Builder).Append(1)
	}
	rec := b.NewRecord()
	defer rec.Release()
	fixed, byRow := Size(rec)
	require.EqualValues(t, 1+4+3, fixed)
	require.EqualValues(t, (2+64)+(2+64+120)+4+(2+128), byRow)
	half := rec.NewSlice(8, 16)
	defer half.Release()
	same, less := Size(half)
	require.Equal(t, fixed, same)
	require.EqualValues(t, (1+32)+(1+32+92)+2+(1+64), less)
}
