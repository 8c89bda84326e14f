package sizing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadHeader(t *testing.T) {
	data, size := header(t, tensor{"a", "BF16", []uint64{2, 3}}, tensor{"b", "F4", []uint64{4}}, tensor{"c", "F32", []uint64{}}, tensor{"d", "I64", []uint64{0, 7}})
	got, err := readHeaderOf(data, size)
	if err != nil {
		t.Fatal(err)
	}
	want := []Tensor{
		{"a", "BF16", []uint64{2, 3}, 12}, {"b", "F4", []uint64{4}, 2}, {"c", "F32", []uint64{}, 4}, {"d", "I64", []uint64{0, 7}, 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Padded with spaces, out of order, of a type nobody knows, without tensors.
	for text, size := range map[string]int64{
		`{"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]},"a":{"dtype":"NEW3","shape":[8],"data_offsets":[0,3]}}    `:             4,
		`{"a\u00e9\ud83d\ude00\ud83d\"\/":{"x":[{"y":[null,true,-1.5e3]},"\u0041\\"],"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`: 2,
		`{}`:                   0,
		`{"__metadata__":{}} `: 0,
	} {
		if _, err := readHeaderOf(raw(text), int64(8+len(text))+size); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestDamagedHeaders(t *testing.T) {
	one := `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}`
	tests := []struct {
		text string
		data int64
		want string
	}{
		{one + `}`, 3, `"a": it ends at 4`},
		{one + `}`, 5, "bytes 4 to 5 belong to no tensor"},
		{one + `,"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}`, 5, "overlap at byte 3"},
		{one + `,"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, "overlap"},
		{one + `,"b":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}}`, 6, "bytes 4 to 5 belong to no tensor"},
		{one + `,"a":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}`, 5, `"a" stands twice`},
		{`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551615]}}`, 1, "does not take"},
		{`{"a":{"dtype":"X","shape":[1],"data_offsets":[0,18446744073709551615]}}`, 1, `"a": it ends at 18446744073709551615`},
		{`{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}`, 4, "end before they begin"},
		{`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0]}}`, 4, "want begin and end"},
		{`{"a":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}}`, 4, `tensor "a"`},
		{`{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,4]}}`, 4, "does not take 4 bytes"},
		{`{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0, "does not take 0 bytes"},
		{`{"a":{"shape":[4],"data_offsets":[0,4]}}`, 4, "no dtype"},
		{`{"a":{"dtype":"U8","data_offsets":[0,4]}}`, 4, "no shape"},
		{`{"a":7}`, 0, `tensor "a"`},
		{`{"__metadata__":{"a":1}}`, 0, "metadata"},
		{`[]`, 0, "where an object begins"},
		{`nonsense`, 0, "read the header"},
		{one, 4, "unexpected EOF"},
		{`{"a":{"dtype":"U8"`, 0, "unexpected EOF"},
		{`{} {}`, 0, "goes on"},
		{`{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}`, 1, "not written as a whole one"},
		{`{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}`, 1, "not written as a whole one"},
		{`{"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]}}`, 1, "larger than 64 bits"},
		{`{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1,1]}}`, 1, "more than 2 data_offsets"},
		{`{"a":{"dtype":"U8","shape":[],"x":nonsense,"data_offsets":[0,1]}}`, 1, "no value of JSON"},
		{`{"a":{"dtype":"U8","shape":[],"x":NaN,"data_offsets":[0,1]}}`, 1, "no value of JSON"},
		{`{"a":{"dtype":"U8","shape":[] "x":1,"data_offsets":[0,1]}}`, 1, "where a comma"},
		{`{"a" {"dtype":"U8","shape":[],"data_offsets":[0,1]}}`, 1, "where a colon"},
		{`{"a\x":{}}`, 0, "no escape of JSON"},
		{`{"a\u12z4":{}}`, 0, "no escape of JSON"},
		{"{\"a\nb\":{}}", 0, "stands in a string"},
		{`{"a":{"x":` + strings.Repeat("[", 100), 0, "nests deeper"},
		{`{"a":{"x":1` + strings.Repeat("0", 1000) + `}}`, 0, "longer than any"},
		{``, 0, "unexpected EOF"},
	}
	for _, tt := range tests {
		got, err := readHeaderOf(raw(tt.text), int64(8+len(tt.text))+tt.data)
		wantError(t, fmt.Sprintf("%s with %d bytes: %v", tt.text, tt.data, got), err, tt.want)
	}
	for _, length := range []uint64{100, maxHeader, maxHeader + 1, math.MaxInt64, math.MaxUint64} {
		_, err := readHeaderOf(binary.LittleEndian.AppendUint64(nil, length), 64)
		wantError(t, fmt.Sprintf("length %d in a file of 64", length), err, "is longer than")
	}
	_, err := readHeaderOf([]byte{1, 2, 3}, 3)
	wantError(t, "three bytes", err, "unexpected EOF")
	// The file is long enough by its size, and ends all the same.
	_, err = readHeaderOf(raw(one)[:20], 1000)
	wantError(t, "cut file", err, "unexpected EOF")
	stop := errors.New("stop")
	if err := ReadHeader(strings.NewReader(string(raw(one+"}"))), int64(8+len(one)+1+4), func(Tensor) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error of visit: %v", err)
	}
}

// A name is read as it is meant, however it is written.
func TestNamesOfTensors(t *testing.T) {
	text := `{"\u0061\ud83d\ude00\ud83dx\n":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`
	got, err := readHeaderOf(raw(text), int64(8+len(text)))
	if err != nil {
		t.Fatal(err)
	}
	if want := "a😀\ufffdx\n"; got[0].Name != want {
		t.Errorf("%q; want %q", got[0].Name, want)
	}
	twice := `{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`
	_, err = readHeaderOf(raw(twice), int64(8+len(twice)))
	wantError(t, "a name in two writings", err, "stands twice")
}

// TestHugeHeaderIsNotBelieved: a header may claim 100 MB, and that must cost
// nothing until the bytes are there.
func TestHugeHeaderIsNotBelieved(t *testing.T) {
	claim := binary.LittleEndian.AppendUint64(nil, maxHeader)
	allocated := testing.AllocsPerRun(1, func() {
		if err := ReadHeader(strings.NewReader(string(claim)+"{"), math.MaxInt64, func(Tensor) error { return nil }); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v; want unexpected EOF", err)
		}
	})
	if allocated > 100 {
		t.Errorf("%v allocations", allocated)
	}
}
