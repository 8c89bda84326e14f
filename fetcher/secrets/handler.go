package secrets

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
)

// Handler returns a handler that hides secrets in all that it hands on to next:
// messages, names and values of attributes, whatever their type.
func (s *Set) Handler(next slog.Handler) slog.Handler { return &handler{set: s, next: next} }

type handler struct {
	set  *Set
	next slog.Handler
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, h.set.Scrub(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(h.attr(a))
		return true
	})
	return h.next.Handle(ctx, clean)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, 0, len(attrs))
	for _, a := range attrs {
		clean = append(clean, h.attr(a))
	}
	return &handler{set: h.set, next: h.next.WithAttrs(clean)}
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{set: h.set, next: h.next.WithGroup(h.set.Scrub(name))}
}

func (h *handler) attr(a slog.Attr) slog.Attr {
	return slog.Attr{Key: h.set.Scrub(a.Key), Value: h.value(a.Value.Resolve())}
}

func (h *handler) value(v slog.Value) slog.Value {
	switch v.Kind() {
	case slog.KindString:
		return slog.StringValue(h.set.Scrub(v.String()))
	case slog.KindGroup:
		clean := make([]slog.Attr, 0, len(v.Group()))
		for _, a := range v.Group() {
			clean = append(clean, h.attr(a))
		}
		return slog.GroupValue(clean...)
	case slog.KindAny:
		return h.any(v)
	default: // numbers, times
		return v
	}
}

// any keeps a value as it is if none of the texts that a handler may make of it
// has a secret.
func (h *handler) any(v slog.Value) slog.Value {
	text := fmt.Sprintf("%+v", v.Any())
	if _, isError := v.Any().(error); isError {
		return slog.StringValue(h.set.Scrub(text))
	}
	clean := h.set.Scrub(text)
	asJSON, err := json.Marshal(v.Any())
	inJSON := err == nil && h.set.Scrub(string(asJSON)) != string(asJSON)
	if clean == text && !inJSON {
		return v
	}
	return slog.StringValue(clean)
}
