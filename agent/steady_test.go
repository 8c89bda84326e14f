package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/stoker-project/stoker/gpu"
)

func TestLowest(t *testing.T) {
	type step struct {
		at   int // seconds
		in   int
		want int
	}
	for name, steps := range map[string][]step{
		"what is true at start is said at start": {{0, 7, 7}},
		"falls at once":                          {{0, 7, 7}, {5, 3, 3}, {10, 0, 0}, {15, unknown, unknown}},
		"rises when it has held":                 {{0, 3, 3}, {5, 7, 3}, {60, 7, 3}, {64, 7, 3}, {65, 7, 7}},
		"one reading after a pause has not held": {{0, 3, 3}, {500, 7, 3}, {560, 7, 7}},
		"rises to what has held, not to the top": {{0, 3, 3}, {5, 9, 3}, {30, 7, 3}, {35, 9, 3}, {65, 9, 7}, {94, 9, 7}, {95, 9, 9}},
		"a dip begins anew":                      {{0, 3, 3}, {5, 7, 3}, {64, 3, 3}, {65, 7, 3}, {124, 7, 3}, {125, 7, 7}},
		"a deeper dip as well":                   {{0, 3, 3}, {5, 7, 3}, {64, 1, 1}, {65, 7, 1}, {124, 7, 1}, {125, 7, 7}},
		"a dip to between counts what it left":   {{0, 3, 3}, {5, 9, 3}, {64, 4, 3}, {65, 9, 4}, {124, 9, 4}, {125, 9, 9}},
		"a rise that did not last makes the next one wait": {
			{0, 3, 3}, {5, 7, 3}, {65, 7, 7}, {100, 3, 3}, {105, 7, 3}, {224, 7, 3}, {225, 7, 7}, // 120 s
			{230, 3, 3}, {235, 7, 3}, {474, 7, 3}, {475, 7, 7}, // 240 s
			{480, 3, 3}, {485, 7, 3}, {964, 7, 3}, {965, 7, 7}, // 480 s
			{970, 3, 3}, {975, 7, 3}, {1454, 7, 3}, {1455, 7, 7}, // and no more
			{1755, 3, 3}, {1760, 7, 3}, {1819, 7, 3}, {1820, 7, 7}, // the last one held for five minutes
		},
		"two falls after a rise count once": {
			{0, 3, 3}, {5, 7, 3}, {65, 7, 7}, {100, 5, 5}, {105, 3, 3}, {110, 7, 3}, {229, 7, 3}, {230, 7, 7},
		},
		"unknown is the least": {{0, 3, 3}, {5, unknown, unknown}, {10, 3, unknown}, {70, 3, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			var l lowest
			for _, s := range steps {
				if got := l.push(noon.Add(time.Duration(s.at)*time.Second), s.in, time.Minute); got != s.want {
					t.Errorf("after %d s, %d: said %d, want %d", s.at, s.in, got, s.want)
				}
			}
		})
	}
}

// A number that changes all the time takes no more room than it has values.
func TestLowestStaysSmall(t *testing.T) {
	var l lowest
	for i := range 100_000 {
		l.push(noon.Add(time.Duration(i)*time.Millisecond), i*7919%36, time.Hour)
	}
	if len(l.levels) > 36 {
		t.Errorf("%d levels of 36 values", len(l.levels))
	}
}

// stage plays one node: what utter decides is written at once.
type stage struct {
	*testing.T
	iv     Intervals
	models []modelState
	gpus   steady
	said   sayer
	fails  bool
	writes []time.Time
	labels map[string]string // as on the Node

	rendered []utterance // the latest, because a day has many turns
	of       int         // how many models these are of
}

// render is what the loop makes of a word.
func (s *stage) render(now time.Time, w gpuWord) (said, error) {
	if s.of != len(s.models) {
		s.rendered, s.of = nil, len(s.models)
	}
	for _, u := range s.rendered {
		if u.word.equal(w) {
			return u.said, nil
		}
	}
	out, err := composer{now: now, agents: 1}.compose(labels(s.models, w), describe(s.models, w, answer[storeView]{}, measuredSpeed{}))
	s.rendered = append(s.rendered[max(0, len(s.rendered)-2):], utterance{word: w, said: out})
	return out, err
}

func newStage(t *testing.T, models ...modelState) *stage {
	t.Helper()
	return &stage{T: t, iv: parse(t, "models: []").Intervals, models: models}
}

// turn is what the loop does with a reading; it returns the decision.
func (s *stage) turn(now time.Time, w gpuWord) utterance {
	s.Helper()
	s.gpus.feed(now, w, s.iv.GPURise)
	u, err := s.gpus.utter(now, &s.said, s.iv, func(w gpuWord) (said, error) { return s.render(now, w) })
	if err != nil {
		s.Fatal(err)
	}
	if !u.due {
		return u
	}
	s.said.begin(now)
	if s.fails {
		s.said.end(now, u.said, errors.New("away"), s.iv, 0)
		return u
	}
	s.said.end(now, u.said, nil, s.iv, 0)
	s.gpus.confirmed(now, u)
	s.writes, s.labels = append(s.writes, now), u.said.labels
	return u
}

// free is the word of two GPUs with so much free memory, no pod on them.
func (s *stage) free(gib ...uint64) gpuWord {
	return wordOf(s.models, gpuFacts{Known: true, Devices: devices(gib...), Free: len(gib), FreeKnown: true}, nil)
}

func (s *stage) wants(what, freeGiB, fits string, writes int) {
	s.Helper()
	if s.labels[FreeGiBLabel] != freeGiB || s.labels[FitsPrefix+"m"] != fits || len(s.writes) != writes {
		s.Errorf("%s: free-gib is %q and fits %q after %d writes, want %q and %q after %d", what,
			s.labels[FreeGiBLabel], s.labels[FitsPrefix+"m"], len(s.writes), freeGiB, fits, writes)
	}
}

func TestSteadySaysLessAtOnceAndMoreLater(t *testing.T) {
	s := newStage(t, warmModel("m", 1))
	at := func(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }
	s.turn(at(0), s.free(79, 79))
	s.wants("at start", "76", "2", 1)
	s.turn(at(5), s.free(79, 3))
	s.wants("one GPU is full", "76", "1", 2)
	if u := s.turn(at(10), s.free(3, 3)); u.due || !u.at.Equal(at(65)) {
		t.Errorf("the second change within a minute is due %v at %s", u.due, u.at)
	}
	s.turn(at(65), s.free(3, 3))
	s.wants("a minute later", "0", "0", 3)
	s.turn(at(200), s.free(79, 79))
	s.turn(at(255), s.free(79, 79))
	s.wants("more, for 55 s", "0", "0", 3)
	s.turn(at(260), s.free(79, 79))
	s.wants("more, for 60 s", "76", "2", 4)
	s.turn(at(400), s.free(3, 79))
	s.wants("less again, long after the last write", "76", "1", 5)
}

func TestSteadyTravelsAlong(t *testing.T) {
	s := newStage(t, warmModel("m", 1))
	s.turn(noon, s.free(79, 79))
	s.turn(noon.Add(5*time.Second), s.free(79, 3)) // uses the minute
	s.models = append(s.models, warmModel("other", 1))
	if u := s.turn(noon.Add(10*time.Second), s.free(3, 3)); !u.due || u.alone {
		t.Errorf("a model became warm: due is %v, alone %v", u.due, u.alone)
	}
	s.wants("a write for another reason", "0", "0", 3)
	if got := s.labels[FitsPrefix+"other"]; got != "0" {
		t.Errorf("what fits of the new model is %q", got)
	}
	s.models = s.models[:1]
	s.turn(noon.Add(15*time.Second), s.free(3, 3))
	s.wants("the model went", "0", "0", 4)
	if _, ok := s.labels[FitsPrefix+"other"]; ok {
		t.Error("the label of a model that went stayed")
	}
}

// A write that fails has said nothing, so it does not use up the minute.
func TestSteadyTriesAgainAfterAFailure(t *testing.T) {
	s := newStage(t, warmModel("m", 1))
	s.turn(noon, s.free(79, 79))
	s.fails = true
	s.turn(noon.Add(5*time.Second), s.free(3, 3))
	s.wants("the API server is away", "76", "2", 1)
	s.fails = false
	s.turn(noon.Add(15*time.Second), s.free(3, 3))
	s.wants("it is back", "0", "0", 2)
}

func TestSteadyUnknownAndBack(t *testing.T) {
	s := newStage(t, warmModel("m", 1))
	gone := func(err error) gpuWord {
		g := gpuFactsOf(answer[[]gpu.Device]{Err: err}, facts{PodsKnown: true}, nodeView{})
		return wordOf(s.models, g, nil)
	}
	s.turn(noon, s.free(79, 79))
	s.turn(noon.Add(time.Minute), gone(gpu.ErrNoDriver))
	s.wants("no driver", "", "", 2)
	if s.labels[WarmPrefix+"m"] != "disk" || s.labels[IdleLabel] != "" {
		t.Errorf("without a driver the labels are %v", s.labels)
	}
	s.turn(noon.Add(2*time.Minute), gone(errors.Join(errors.New("for 10s"), gpu.ErrTimeout)))
	s.wants("another trouble is worth a word", "", "", 3)
	for i := range 100 { // another text is not
		s.turn(noon.Add(time.Duration(3+i)*time.Minute), gone(errors.Join(errors.New("for "+time.Duration(i).String()), gpu.ErrTimeout)))
	}
	s.wants("still hanging", "", "", 3)
	s.turn(noon.Add(200*time.Minute), s.free(79, 79))
	s.wants("back for an instant", "", "", 3)
	s.turn(noon.Add(201*time.Minute), s.free(79, 79))
	s.wants("back for a minute", "76", "2", 4)
}
