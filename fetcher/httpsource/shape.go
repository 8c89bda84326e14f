package httpsource

// Shape is the format of the answers that a client decodes as a whole, into memory
// that depends on how many values they have.
type Shape int

// The formats of pages.
const (
	// AnyShape is decoded by us, value by value.
	AnyShape Shape = iota
	// XMLPage is a page of a bucket in XML.
	XMLPage
	// JSONPage is a page of a bucket in JSON.
	JSONPage
)

// Bounds on one page, about ten times what 1000 objects take with all that may
// be stated of them.
const (
	maxTags    = 200_000 // of XML
	maxTag     = 4 << 10 // bytes of one, with its attributes
	maxObjects = 20_000  // of JSON, and lists
	maxValues  = 200_000 // in all of them
)

// counter takes the bytes of an answer as they come; false is too many.
type counter interface{ count(p []byte) bool }

func (s Shape) counter() counter {
	switch s {
	case XMLPage:
		return &xmlCounter{}
	case JSONPage:
		return &jsonCounter{}
	case AnyShape:
	}
	return nil
}

// xmlCounter counts tags. A "<" begins one wherever it stands: text has it as an
// entity.
type xmlCounter struct {
	tags, length int
	inside       bool
}

func (c *xmlCounter) count(p []byte) bool {
	for _, b := range p {
		switch b {
		case '<':
			c.tags++
			c.inside, c.length = true, 0
		case '>':
			c.inside = false
		}
		if c.inside {
			c.length++
		}
		if c.tags > maxTags || c.length > maxTag {
			return false
		}
	}
	return true
}

// jsonCounter counts objects and values outside of strings.
type jsonCounter struct {
	objects, values  int
	inside, escaping bool // a string, an escape in it
}

func (c *jsonCounter) count(p []byte) bool {
	for _, b := range p {
		switch {
		case c.escaping:
			c.escaping = false
		case c.inside:
			c.escaping = b == '\\'
			c.inside = b != '"'
		case b == '"':
			c.inside = true
		case b == '{' || b == '[':
			c.objects++
		case b == ',':
			c.values++
		}
		if c.objects > maxObjects || c.values > maxValues {
			return false
		}
	}
	return true
}
