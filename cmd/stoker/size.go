package main

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// parseRate reads bytes per second: 500MB, 500Mi, 1GiB, 1.5G, with or without
// /s; 0 or "" is unlimited.
func parseRate(s string) (int64, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(s), "/s"), "B")
	if text == "" && s == "" {
		return 0, nil
	}
	if number, ok := strings.CutSuffix(text, "K"); ok {
		text = number + "k" // what Kubernetes calls a thousand
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() < 0 || (q.Sign() > 0 && q.Value() < 1) {
		return 0, fmt.Errorf("rate %q is no number of bytes per second; write it like 500MB or 200Mi", s)
	}
	return q.Value(), nil
}

// humanBytes prints bytes in binary units with three digits at the most
// before the point.
func humanBytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1023.95 && unit < 5 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit])
}
