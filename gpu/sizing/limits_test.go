package sizing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// endless repeats a text behind a beginning and counts what is read of it.
type endless struct {
	front string
	text  func(i int) string
	i     int
	read  int
}

func (e *endless) Read(p []byte) (int, error) {
	if e.front == "" {
		e.front = e.text(e.i)
		e.i++
	}
	n := copy(p, e.front)
	e.front, e.read = e.front[n:], e.read+n
	return n, nil
}

func headerOf(length int, front string, text func(int) string) *endless {
	return &endless{front: string(binary.LittleEndian.AppendUint64(nil, uint64(length))) + front, text: text}
}

// TestCostlyHeaders: what no model has ends the reading where it is met.
func TestCostlyHeaders(t *testing.T) {
	same := func(text string) func(int) string { return func(int) string { return text } }
	tensors := func(i int) string {
		return fmt.Sprintf(`"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},`, i)
	}
	const buffered = 128 << 10
	for _, tt := range []struct {
		name  string
		front string
		text  func(int) string
		want  string
		most  int // bytes read
	}{
		{"dimensions", `{"a":{"dtype":"U8","shape":[`, same("1,"), "more than 16 dimensions", buffered},
		{"offsets", `{"a":{"dtype":"U8","data_offsets":[`, same("1,"), "more than 2", buffered},
		{"a long name", `{"`, same("aaaaaaaa"), "longer than 4096 bytes", buffered},
		{"a long type", `{"a":{"dtype":"`, same(`\u0061`), "longer than 4096 bytes", buffered},
		{"depth", `{"a":{"x":`, same("["), "nests deeper", buffered},
		{"a long number", `{"a":{"x":`, same("1"), "longer than any", buffered},
		{"tensors", "{", tensors, "more than 1000000 tensors", maxHeader},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := headerOf(maxHeader, tt.front, tt.text)
			err := ReadHeader(r, 1<<40, func(Tensor) error { return nil })
			wantError(t, "header", err, tt.want)
			if r.read > tt.most {
				t.Errorf("read %d bytes", r.read)
			}
		})
	}
}

// TestCostlySkips: what is passed over may be long, and then takes no memory.
func TestCostlySkips(t *testing.T) {
	for name, front := range map[string]string{
		"metadata": `{"__metadata__":{"a":"`, "field": `{"a":{"x":"`, "list": `{"a":{"x":[1`, "space": `{`,
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Repeat(" ", 1<<16)
			if name == "list" {
				text = strings.Repeat(",1", 1<<15)
			}
			allocated := testing.AllocsPerRun(1, func() {
				r := headerOf(20_000_000, front, func(int) string { return text })
				err := ReadHeader(r, 1<<40, func(Tensor) error { return nil })
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%v; want an unexpected end", err)
				}
			})
			if allocated > 1000 {
				t.Errorf("%v allocations", allocated)
			}
		})
	}
}

// TestCostlyModels: the limits hold for all files of a model together.
func TestCostlyModels(t *testing.T) {
	config := func(text string) model { return tiny(t, text) }
	many := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	for _, tt := range []struct {
		name string
		m    model
		want string
	}{
		{"values of config.json", config(`{"a":[` + strings.Repeat("1,", maxValues) + `1]}`), "more than 500000 values"},
		{"length of config.json", config(`{"a":"` + strings.Repeat("a", maxConfig) + `"}`), "longer than 16777216 bytes"},
		{"files of an index", config(`{}`).file("model.safetensors.index.json", `{"weight_map":{`+many(maxFiles+1, `"%d":"%[1]d.safetensors",`)+`"a":"a"}}`), "more than 10000 files"},
		{"tensors of an index", config(`{}`).file("model.safetensors.index.json", `{"weight_map":{`+many(maxTensors+1, `"%d":"a",`)+`"a":"a"}}`), "more than 1000000 tensors"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadModel(tt.m)
			wantError(t, "model", err, tt.want)
			if !errors.Is(err, ErrTooLarge) {
				t.Errorf("%v is not ErrTooLarge", err)
			}
		})
	}

	m := newModel(`{}`)
	text := `{"__metadata__":{"a":"` + strings.Repeat("a", maxHeader/2) + `"}}`
	for _, name := range []string{"a", "b", "c"} {
		m.file(name+".safetensors", string(raw(text)))
	}
	_, err := ReadModel(m)
	wantError(t, "headers of three files", err, "read c.safetensors", "longer than 134217728 bytes together")
}
