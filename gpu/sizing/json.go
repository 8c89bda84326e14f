package sizing

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// readJSON decodes one JSON file of at most maxConfig bytes and maxValues values.
func readJSON(fsys fs.FS, name string, into any) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err // it says which file, and that it was to be opened
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		err = fmt.Errorf("%w: the file is longer than %d bytes", ErrTooLarge, maxConfig)
	}
	switch {
	case err != nil:
	case len(bytes.TrimSpace(data)) == 0:
		err = errors.New("it is empty")
	case bytes.HasPrefix(data, []byte(pointerStart)):
		err = errPointer
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		err = errors.New("it begins with a byte order mark, which JSON does not allow")
	default:
		err = checkValues(data)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	dec := json.NewDecoder(bytes.NewReader(withoutPythonNumbers(data)))
	err = dec.Decode(into)
	if err == nil {
		if _, more := dec.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("it goes on behind its JSON value")
		}
	}
	var other *json.UnmarshalTypeError
	if errors.As(err, &other) && other.Field == "" {
		err = fmt.Errorf("it is a JSON %s; want an object", other.Value)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, unexpected(err))
	}
	return nil
}

// checkValues refuses what would take a hundred times its length decoded: it counts
// the commas and brackets outside of strings.
func checkValues(data []byte) error {
	inText, values := false, 0
	for i := 0; i < len(data); i++ {
		switch b := data[i]; {
		case inText && b == '\\':
			i++
		case b == '"':
			inText = !inText
		case inText:
		case b == ',' || b == '[' || b == '{':
			values++
		}
	}
	if values > maxValues {
		return fmt.Errorf("%w: the file holds more than %d values", ErrTooLarge, maxValues)
	}
	return nil
}

// withoutPythonNumbers makes JSON of what Python writes: it knows NaN and
// Infinity, and configs of state-space models have them (time_step_limit). They
// become null, and no more than that is said of them here.
func withoutPythonNumbers(data []byte) []byte {
	if !bytes.Contains(data, []byte("Infinity")) && !bytes.Contains(data, []byte("NaN")) {
		return data
	}
	var out []byte
	for inText := false; len(data) > 0; {
		switch {
		case inText && data[0] == '\\' && len(data) > 1:
			out, data = append(out, data[:2]...), data[2:]
			continue
		case data[0] == '"':
			inText = !inText
		case !inText:
			if rest, ok := cutPythonNumber(data); ok {
				out, data = append(out, "null"...), rest
				continue
			}
		}
		out, data = append(out, data[0]), data[1:]
	}
	return out
}

func cutPythonNumber(data []byte) ([]byte, bool) {
	for _, word := range []string{"NaN", "Infinity", "-Infinity"} {
		if rest, ok := bytes.CutPrefix(data, []byte(word)); ok {
			return rest, true
		}
	}
	return nil, false
}
