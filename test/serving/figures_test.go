package serving

import "time"

// The figures of docs/autoscaling.md: what the tests are run with, and what they
// hold what comes out against. TestPage holds the page against them.
const (
	// most is how many replicas may become of one.
	most = 4
	// waiting is the queue of a load that wants all of them, many one that could want
	// a hundred.
	waiting, many = 20, 500
	// queueTarget is the chart's: how many may wait for each replica.
	queueTarget = 5

	// hpaSync is how often the controller-manager looks: its last look at a load that
	// has ended may be so long before the end, and windows begin with that look.
	hpaSync = 15 * time.Second

	// chartCPU is what the chart requests for vLLM, cpuTarget what many HPAs are
	// given. One request keeps cpuOfOne percent of it busy, a full batch cpuOfFull.
	chartCPU            = "4"
	cpuTarget           = 80
	cpuOfOne, cpuOfFull = 25, 50
	// cpuHeld is how long an HPA on CPU leaves one replica alone with all that wait.
	cpuHeld = 2 * time.Minute

	// window is the stabilization window of the tests' releases: shorter than the
	// chart's five minutes, and long enough to be seen.
	window = 60 * time.Second
	// queueGrew is how long the chart's ScaledObject takes from one replica to all of
	// them at most, adapterGrew the chart's HPA; cacheGrew either, by the cache, which
	// it does in three steps.
	queueGrew, adapterGrew, cacheGrew = 2 * hpaSync, 2 * hpaSync, 5 * hpaSync
	// cacheFull is the percentage of the cache that is in use in every replica.
	cacheFull = 90
	// pausedHeld is how long a paused ScaledObject leaves the queue waiting.
	pausedHeld = time.Minute
	// fewer replicas are there when Prometheus goes away, for so long.
	fewer = 3
	away  = 2 * window
	// alertAfter is how long VLLMMetricsMissing waits.
	alertAfter = 5 * time.Minute

	// shareTarget is what share of the cache a recipe aims at that divides it by the
	// replicas, and shareReplicas where it ends.
	shareTarget, shareReplicas = 0.8, 2
	// cooldown is a recipe's cooldownPeriod in seconds, and hpaDefaultWindow what
	// holds replicas instead.
	cooldown         = 10
	hpaDefaultWindow = 5 * time.Minute
	// vanishedWindow is the recipe's whose metric vanishes.
	vanishedWindow = 30 * time.Second

	// preemptions happen each second for so long, and are scraped so often, but for
	// one scrape in so many.
	preemptions   = 0.2
	preempted     = 2 * time.Hour
	scrapeRules   = 30 * time.Second
	missedEvery   = 20
	preemptWindow = 5 * time.Minute
)
