package fetcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/stoker-project/stoker/fetcher/headroom"
	"github.com/stoker-project/stoker/fetcher/secrets"
	"github.com/stoker-project/stoker/fetcher/store"
)

// Options of a Fetcher. Store, Drivers and Logger are required.
type Options struct {
	Store   *store.Store
	Drivers Drivers
	Logger  *slog.Logger
	// Jobs is how many connections one pull uses at most; default 32. How many
	// of them help is found out.
	Jobs int
	// MaxRate limits all pulls of this Fetcher together, in bytes per second;
	// 0 is unlimited.
	MaxRate int64
	// Admit is asked before a pull transfers need bytes that are not in the
	// store yet; an error (ErrNoSpace) stops it before the first byte. Default:
	// the file system must have room for them.
	Admit func(ctx context.Context, need int64) error
	// Memory is how many bytes the page cache may hold of what is transferred;
	// default: what the machine, or the cgroup, has. Of a pull that is larger
	// than half of it, pages are dropped as soon as they are on the disk.
	Memory int64
	// StallTimeout ends a body that brought no byte for so long; default 30 s. Until
	// the source has answered, the driver's own bounds hold.
	StallTimeout time.Duration
	// Attempts is how often in a row a request may fail without progress before the
	// pull gives up; default 6, about 15 s with backoff.
	Attempts int
	// Patience is how long a request may go on without progress, counted from the
	// last one: its tries and the waits between them, the next wait included. So a
	// source that asks for a longer wait ends the pull at once. Default 10 minutes.
	// Neither it nor Attempts depends on why the tries fail.
	Patience time.Duration
	// Yield has a pull or a look-up end at once where the quota that finding and listing
	// files takes is used up, rather than wait for it: who has other models to pull begins
	// it again when the error's RetryAfter has passed. See [QuotaOf].
	Yield bool
	// Secrets are refused where a source lists files; nil: there are none.
	Secrets *secrets.Set
	// Catalog, if not nil, is asked what a source means before the source is.
	Catalog Catalog
}

// Fetcher pulls models into one store. It is safe for concurrent use.
type Fetcher struct {
	o       Options
	limiter *rate.Limiter
	found   found
	here    contentIndex
}

// New returns a Fetcher; zero options get their defaults.
func New(o Options) *Fetcher {
	if o.Jobs <= 0 {
		o.Jobs = 32
	}
	if o.Memory <= 0 {
		state, _ := headroom.Read() // without an answer there is no limit
		o.Memory = state.Most()
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = 30 * time.Second
	}
	if o.Attempts <= 0 {
		o.Attempts = 6
	}
	if o.Patience <= 0 {
		o.Patience = 10 * time.Minute
	}
	f := &Fetcher{o: o}
	if o.MaxRate > 0 {
		// One buffer at least must pass at once, or it never could.
		f.limiter = rate.NewLimiter(rate.Limit(o.MaxRate), max(bufferSize, int(min(o.MaxRate/10, 1<<30))))
	}
	if f.o.Admit == nil {
		f.o.Admit = f.admitFree
	}
	return f
}

// Request is one model to pull.
type Request struct {
	Name   string
	Source Source
	// Include, Also, Exclude and FileFormat are the [Choice] of files.
	Include, Also, Exclude []string
	FileFormat             string
	// AcceptOlder takes, of a pinned revision that is published, the files that an earlier
	// stoker chose by older rules, where the source cannot be reached.
	AcceptOlder bool
	Access      Access
	// Cache is how many bytes the page cache may hold of what the pull transfers;
	// 0: half of [Options.Memory]; below 0: nothing. Of a larger pull, pages are
	// dropped as soon as they are on the disk.
	Cache int64
	// Progress, if not nil, is told how far the pull is: one call at a time,
	// at every change of phase and every 200 ms in between.
	Progress func(Progress)
}

func (r Request) choice() Choice {
	return Choice{Include: r.Include, Also: r.Also, Exclude: r.Exclude, FileFormat: r.FileFormat}
}

// Phases of a pull, in order.
const (
	PhaseListing    = "listing"
	PhaseWaiting    = "waiting" // another process pulls the same model
	PhaseVerifying  = "verifying"
	PhasePulling    = "pulling"
	PhasePublishing = "publishing"
)

// Progress is how far a pull is.
type Progress struct {
	Phase    string
	Revision string
	// BytesDone of BytesTotal are in the store: found there, resumed or
	// transferred. While verifying, they count what was re-read; while waiting,
	// they are those of the pull that is waited for.
	BytesDone, BytesTotal int64
	FilesDone, FilesTotal int
	// Failing is why the last request failed, while it is tried again and nothing
	// has come since; else nil.
	Failing error
}

// Result is a model that is published.
type Result struct {
	Name     string
	Source   string
	Revision string
	// Path is the directory of the revision: what vLLM takes as --model.
	Path string
	// Bytes is the model's size, DownloadedBytes what came from the source.
	Bytes, DownloadedBytes int64
	Duration               time.Duration
}

// Resolve looks up which revision the source means now: by the catalog if that knows,
// else at the source, without listing its files where the source allows that.
func (f *Fetcher) Resolve(ctx context.Context, req Request) (string, error) {
	if req.Source.Pinned() {
		return req.Source.Revision, nil
	}
	revision, err := f.lookUp(ctx, req)
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", req.Source, err)
	}
	return revision, nil
}

func (f *Fetcher) lookUp(ctx context.Context, req Request) (string, error) {
	driver, err := f.o.Drivers[req.Source.Scheme](req.Access)
	if err != nil {
		return "", err
	}
	r, ok := driver.(Resolver)
	if !ok {
		l, err := f.listAll(ctx, req, driver, nil)
		return l.Revision, err
	}
	if commit, _, ok := f.catalogued(ctx, req); ok {
		return commit, nil
	}
	commit, err := f.resolve(ctx, req, r, nil)
	if err == nil {
		f.found.put(req, commit, nil) // the pull that follows lists this one
	}
	return commit, err
}

// Pull brings the model into the store, verified, and publishes it. It resumes
// what an earlier pull began, and downloads nothing that is here and right. A
// pull of the same model that is under way elsewhere is waited for.
//
// Errors are of the kinds of this package, or ctx's, or the file system's.
// After an error nothing of this revision is newly published, and what was
// transferred stays for the next try.
func (f *Fetcher) Pull(ctx context.Context, req Request) (Result, error) {
	start, downloaded := time.Now(), int64(0)
	for try := 1; ; try++ {
		res, err := f.pull(ctx, req)
		downloaded += res.DownloadedBytes
		if err == nil {
			res.DownloadedBytes, res.Duration = downloaded, time.Since(start)
			return res, nil
		}
		if ctx.Err() != nil || !f.o.Store.MayPass(err) {
			return Result{}, fmt.Errorf("pull %s: %w", req.Source, err)
		}
		if try == volumeTries {
			return Result{}, fmt.Errorf("pull %s: gave up after %d tries: %w", req.Source, try, err)
		}
		f.o.Logger.Warn("beginning again what the store's file server failed", "source", req.Source.String(), "error", err)
		if err := sleep(ctx, backoff(try)); err != nil {
			return Result{}, fmt.Errorf("pull %s: %w", req.Source, err)
		}
	}
}

// volumeTries is how often a pull is begun whose store's file server fails.
const volumeTries = 3

// pull is one try. After an error the result has what was downloaded.
func (f *Fetcher) pull(ctx context.Context, req Request) (res Result, err error) {
	if err := errors.Join(CheckName(req.Name), CheckFileFormat(req.FileFormat)); err != nil {
		return Result{}, err
	}
	if _, ok := f.o.Drivers[req.Source.Scheme]; !ok {
		return Result{}, fmt.Errorf("this stoker has no driver for %s:// sources: %w", req.Source.Scheme, ErrUnsupported)
	}
	meter := startMeter(req.Progress, func() (Progress, bool) { return f.otherProgress(req.Name) })
	defer meter.stop()
	staging, err := f.o.Store.Stage(ctx, req.Name, func() { meter.phase(PhaseWaiting) })
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, staging.Close()) }()
	meter.working(func(p Progress) {
		// It is for people who wait; whatever is wrong with the disk, the pull says.
		_ = staging.WriteProgress(store.Progress{Revision: p.Revision, Bytes: p.BytesDone, TotalBytes: p.BytesTotal, Files: p.FilesDone, TotalFiles: p.FilesTotal})
	})
	defer meter.quiet()

	meter.phase(PhaseListing)
	defer func() {
		if !errors.Is(err, ErrThrottled) { // else what was found serves the next try
			f.found.forget(req)
		}
	}()
	listing, rules, err := f.contents(ctx, req, meter.failing)
	if err != nil {
		return Result{}, err
	}
	if err := f.fits(listing.Files); err != nil {
		return Result{}, err
	}
	known, err := f.knownContent(staging)
	if err != nil {
		return Result{}, err
	}
	p := &pull{f: f, req: req, source: listing.Of(req.Source), revision: listing.Revision, read: listing.read, rules: rules, staging: staging, meter: meter, sums: map[string]string{}, woken: make(chan struct{}, 1)}
	p.gate.failing = meter.failing
	if err := p.checkManifestSize(listing.Files); err != nil {
		return Result{}, err
	}
	if err := p.run(ctx, listing.Files, known); err != nil {
		return Result{DownloadedBytes: p.downloaded.Load()}, err
	}
	meter.phase(PhasePublishing)
	m := p.manifest(listing.Files)
	res = Result{
		Name: req.Name, Source: req.Source.String(), Revision: m.Revision, Path: f.o.Store.Path(m.Name, m.Revision),
		Bytes: m.Bytes, DownloadedBytes: p.downloaded.Load(),
	}
	if err := f.checkWhole(req, m); err != nil {
		return res, err
	}
	return res, f.publish(ctx, staging, m)
}

// otherProgress is how far another pull of the model is, if it says so.
func (f *Fetcher) otherProgress(name string) (Progress, bool) {
	p, err := f.o.Store.ReadProgress(name)
	return Progress{Revision: p.Revision, BytesDone: p.Bytes, BytesTotal: p.TotalBytes, FilesDone: p.Files, FilesTotal: p.TotalFiles}, err == nil
}

// contents lists the chosen files of the revision, and by which version of the rules
// they were chosen. A pinned revision that is published with the same choice is not
// asked for again: it can have no other content, and a warm model needs no network.
// Where older rules made that choice it is, as some files may be missing. failing hears
// why a request is made again.
func (f *Fetcher) contents(ctx context.Context, req Request, failing func(error)) (l Listing, rules int, err error) {
	published, have, err := f.published(req)
	if err != nil {
		return Listing{}, 0, err
	}
	if have != nil && published.Selection >= SelectionVersion {
		return *have, published.Selection, nil
	}
	l, err = f.list(ctx, req, failing)
	if err == nil {
		l, err = f.chosen(ctx, req, l, failing)
	}
	if err != nil && have != nil && req.AcceptOlder && retryable(err) && ctx.Err() == nil {
		f.o.Logger.Warn("keeping the files that an earlier stoker chose, since the source cannot be reached",
			"source", req.Source.String(), "error", err)
		return *have, published.Selection, nil
	}
	return l, SelectionVersion, err
}

// published returns the manifest of a pinned revision that is published with the same
// choice, and its files as they were listed; nil if there is none.
func (f *Fetcher) published(req Request) (store.Manifest, *Listing, error) {
	if !req.Source.Pinned() {
		return store.Manifest{}, nil, nil
	}
	m, err := f.o.Store.Manifest(req.Name, req.Source.Revision)
	if err != nil {
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
			err = nil
		}
		return store.Manifest{}, nil, err
	}
	l := Listing{Revision: m.Revision}
	for _, mf := range m.Files {
		l.Files = append(l.Files, listed(mf))
	}
	if !sameChoice(m, req) || checkListing(l) != nil {
		return store.Manifest{}, nil, nil //nolint:nilerr // it is listed again
	}
	return m, &l, nil
}

// chosen checks what a source listed and leaves the files that the pull takes.
func (f *Fetcher) chosen(ctx context.Context, req Request, l Listing, failing func(error)) (Listing, error) {
	err := store.CheckRevision(l.Revision)
	if err == nil && req.Source.Pinned() && l.Revision != req.Source.Revision {
		err = fmt.Errorf("it is of revision %s: %w", l.Revision, ErrCorrupt)
	}
	if err != nil {
		return Listing{}, wrongList(req.Source, err)
	}
	l.Files = withoutFolders(l.Files)
	if l.Files, err = f.choose(ctx, req, &l, failing); err != nil {
		return Listing{}, err
	}
	// What is left out does no harm, whatever its name is.
	if err = checkListing(l); err == nil {
		err = f.checkSecrets(l)
	}
	if err != nil {
		return Listing{}, wrongList(req.Source, err)
	}
	return l, f.vouch(ctx, req, l, failing)
}

// checkSecrets refuses a list that repeats a credential of this process: names and
// versions get into the store, which every pod reads.
func (f *Fetcher) checkSecrets(l Listing) error {
	repeated := f.o.Secrets.Has(l.Revision)
	for _, file := range l.Files {
		repeated = repeated || f.o.Secrets.Has(file.Path) || f.o.Secrets.Has(file.Version)
	}
	if repeated {
		return fmt.Errorf("a name in it repeats a credential of this process: %w", ErrCorrupt)
	}
	return nil
}

// fits asks before the first byte what the store's file system would refuse
// only in the middle of a transfer, or when all of it is done.
func (f *Fetcher) fits(files []File) error {
	volume, err := f.o.Store.Probe()
	if err != nil {
		return err
	}
	sizes := make(map[string]int64, len(files))
	for _, file := range files {
		sizes[file.Path] = file.Size
	}
	return volume.Fits(sizes)
}

// listed is a manifest's file as the source listed it.
func listed(mf store.ManifestFile) File {
	return File{Path: mf.Path, Size: mf.Size, Digest: Digest(mf.VouchedBy), Version: mf.Version}
}

func sameChoice(m store.Manifest, req Request) bool {
	src, err := ParseSource(m.Source)
	return err == nil && src.WithoutRevision() == req.Source.WithoutRevision() && ChoiceOf(m).Equal(req.choice())
}

func (f *Fetcher) list(ctx context.Context, req Request, failing func(error)) (Listing, error) {
	driver, err := f.o.Drivers[req.Source.Scheme](req.Access)
	if err != nil {
		return Listing{}, err
	}
	if r, ok := driver.(Resolver); ok {
		return f.listResolved(ctx, req, r, failing)
	}
	return f.listAll(ctx, req, driver, failing)
}

// listGate is the gate of the requests that find and list files.
func (f *Fetcher) listGate(failing func(error)) *gate {
	return &gate{failing: failing, yields: f.o.Yield}
}

// listAll has the driver find and list what the source means in one step.
func (f *Fetcher) listAll(ctx context.Context, req Request, driver Driver, failing func(error)) (Listing, error) {
	var l Listing
	err := f.retry(ctx, "list files", f.listGate(failing), func(ctx context.Context) (int64, error) {
		var err error
		l, err = driver.List(ctx, req.Source)
		return 0, err
	})
	return l, err
}

// publish writes the manifest unless exactly this is published, current and
// intact already.
func (f *Fetcher) publish(ctx context.Context, staging *store.Staging, m store.Manifest) error {
	have, err := f.o.Store.Lookup(m.Name)
	if err == nil && sameManifest(have, m) && f.o.Store.Check(ctx, have) == nil {
		return staging.Confirm(have)
	}
	m.PublishedAt = time.Now().UTC()
	if err := staging.Publish(ctx, m); err != nil {
		return err
	}
	before, after := staging.Generations()
	f.here.add(m, before, after)
	return nil
}

func sameManifest(a, b store.Manifest) bool {
	return a.Revision == b.Revision && a.Source == b.Source && slices.Equal(a.Files, b.Files) &&
		a.Selection == b.Selection && ChoiceOf(a).Equal(ChoiceOf(b))
}

// admitFree is the default Admit: the file system has room, or the pull is
// not begun.
func (f *Fetcher) admitFree(_ context.Context, need int64) error {
	u, err := f.o.Store.FileSystem()
	if err != nil {
		return err
	}
	if need > u.FreeBytes {
		return &Error{
			Kind: ErrNoSpace, Op: "reserve", Origin: f.o.Store.Dir(),
			Err:  fmt.Errorf("%d bytes are needed, %d are free", need, u.FreeBytes),
			Hint: "free some space (stoker rm, stoker gc) or choose another store",
		}
	}
	return nil
}
