package ordeal

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// What may be downloaded twice, in bytes. A kill costs 2 MiB a connection;
// beside that there is what the kernel holds of a connection, which the agent
// never saw.
const (
	lostByKill   = 2 << 20
	lostInKernel = 1 << 20
)

// checkpoint is how far apart the moments are after which nothing of a transfer
// can be lost by a power cut: 5 s, and the time that the disk takes.
const checkpoint = 7 * time.Second

// each calls do for every content that was asked for.
func (s *Source) each(do func(sha256 string, c *traffic)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sha256 := range slices.Sorted(maps.Keys(s.traffic)) {
		do(sha256, s.traffic[sha256])
	}
}

// Mark remembers how much was sent, for what a power cut costs.
func (s *Source) Mark(now time.Time) {
	s.each(func(_ string, c *traffic) {
		if n := len(c.marks); n == 0 || c.marks[n-1].sent != c.sent {
			c.marks = append(c.marks, mark{at: now, sent: c.sent})
		}
		for len(c.marks) > 1 && now.Sub(c.marks[1].at) > checkpoint {
			c.marks = c.marks[1:]
		}
	})
}

// Killed allows what the end of the agent, or of its transfers, costs.
func (s *Source) Killed() {
	s.each(func(_ string, c *traffic) {
		if c.open > 0 {
			c.may += int64(c.open+1)*lostByKill + int64(c.open)*lostInKernel
		}
	})
}

// jobs is how many connections one pull may have, as the configuration says.
const jobs = 4

// Canceled allows what it costs that the agent itself ends its pulls from a
// repository, some time from now; from all of them ("") if it is not known which.
func (s *Source) Canceled(repo string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hit := map[string]bool{}
	for commit, files := range s.commits {
		for _, f := range files {
			hit[f.SHA256] = hit[f.SHA256] || repo == "" || s.repos[commit] == repo
		}
	}
	for sha256, c := range s.traffic {
		if hit[sha256] {
			c.may += min(c.size, jobs*(lostByKill+lostInKernel))
		}
	}
}

// PowerLost allows what came after the last checkpoint.
func (s *Source) PowerLost(now time.Time) {
	s.each(func(_ string, c *traffic) {
		before := int64(0)
		if len(c.marks) > 0 && now.Sub(c.marks[0].at) >= checkpoint-time.Second {
			before = c.marks[0].sent
		}
		c.may += c.sent - before
	})
}

// Lost allows contents to be downloaded again as a whole.
func (s *Source) Lost(sha256 ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sum := range sha256 {
		if c := s.traffic[sum]; c != nil {
			c.may += c.size
		}
	}
}

// LostAll allows everything to be downloaded again.
func (s *Source) LostAll() { s.each(func(_ string, c *traffic) { c.may += c.size }) }

// TooMuch names contents of which more was sent than may be.
func (s *Source) TooMuch() []string {
	var out []string
	s.each(func(sha256 string, c *traffic) {
		// Two pulls at once may both bring a small file that two models have, and
		// a kill costs whole ones: they are less than what one connection may lose.
		// A connection that is closed because another has taken over its end leaves
		// in the kernel what was sent beyond that.
		if may := c.may + jobs*lostInKernel; c.sent > may && c.size > smallFile {
			out = append(out, fmt.Sprintf("%d bytes were downloaded of %s, which has %d; at most %d were lost or not there", c.sent, sha256, c.size, may))
		}
	})
	return out
}

// Settled begins the count anew: here says what is in the store now, and so
// needs not be downloaded.
func (s *Source) Settled(here map[string]bool) {
	s.each(func(sha256 string, c *traffic) {
		c.sent, c.may, c.marks = 0, 0, nil
		if !here[sha256] {
			c.may = c.size
		}
	})
}

// Open are the contents of which something is being sent.
func (s *Source) Open() []string {
	var out []string
	s.each(func(sha256 string, c *traffic) {
		if c.open > 0 {
			out = append(out, sha256)
		}
	})
	return out
}
