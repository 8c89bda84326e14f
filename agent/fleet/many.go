package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stoker-project/stoker/agent"
)

// kindTable sums nodes up by their GPUs.
func (f *Fleet) kindTable() table {
	kinds := map[string][]*Node{}
	for i := range f.Nodes {
		name := f.Nodes[i].gpuCells().name
		kinds[name] = append(kinds[name], &f.Nodes[i])
	}
	names := slices.SortedFunc(maps.Keys(kinds), func(a, b string) int {
		return cmp.Or(len(kinds[b])-len(kinds[a]), cmp.Compare(a, b))
	})
	var t table
	t.add("GPUS", "NODES", "MOST FREE", "IDLE", "UNALLOCATED", "WARM", "LEAST FREE DISK", "AGENTS", "IN TROUBLE")
	for i, name := range names {
		if i == mostRows {
			left := 0
			for _, name := range names[i:] {
				left += len(kinds[name])
			}
			t.add("...", fmt.Sprint(left), "", "", "", "", "", "", fmt.Sprintf("%s more; --wide shows them", count(len(names)-i, "row")))
			break
		}
		t.add(kindRow(name, kinds[name])...)
	}
	return t
}

// mostWanting returns the models to list, and of more than mostRows the rest: those
// that fewest nodes lack.
func mostWanting(all []Model) (listed, rest []Model) {
	if len(all) <= mostRows {
		return all, nil
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b Model) int {
		return cmp.Or(cmp.Compare(b.Wanted-b.Warm, a.Wanted-a.Warm), cmp.Compare(b.Pods, a.Pods))
	})
	listed, rest = all[:mostRows], all[mostRows:]
	slices.SortFunc(listed, func(a, b Model) int { return cmp.Compare(a.Name, b.Name) })
	return listed, rest
}

// restRow sums models up.
func restRow(models []Model) []string {
	sum := Model{States: map[agent.State]int{}}
	for _, m := range models {
		sum.Wanted, sum.Warm, sum.Pods = sum.Wanted+m.Wanted, sum.Warm+m.Warm, sum.Pods+m.Pods
		sum.Fits, sum.FitsUnknown, sum.Bytes = sum.Fits+m.Fits, sum.FitsUnknown+m.FitsUnknown, sum.Bytes+m.Bytes
		for s, n := range m.States {
			sum.States[s] += n
		}
	}
	fits, bytes := "", ""
	if sum.Warm > 0 && (sum.Fits > 0 || sum.FitsUnknown == 0) {
		fits = fmt.Sprint(sum.Fits)
	}
	if sum.Bytes > 0 {
		bytes = size(sum.Bytes)
	}
	return []string{
		count(len(models), "more model"), fmt.Sprintf("%d of %d", sum.Warm, sum.Wanted), sum.otherwise(), fits, fmt.Sprint(sum.Pods), bytes, "",
		"--wide lists them, --model shows one",
	}
}

func kindRow(name string, nodes []*Node) []string {
	var free span2
	var idle, unallocated, gpus, warm, wanted, trouble int
	known, told := false, false
	versions := map[string]int{}
	var tightest *Node
	for _, n := range nodes {
		if n.GPUs.Known && n.GPUs.Count > 0 {
			known = true
			free.add(int(n.GPUs.FreeBytes >> 30))
			idle += n.GPUs.Idle
			gpus += n.GPUs.Count
			if n.GPUs.Unallocated != nil {
				told = true
				unallocated += *n.GPUs.Unallocated
			}
		}
		w := n.warmth()
		warm, wanted = warm+w.warm, wanted+w.wanted
		if n.AgentVersion != "" {
			versions[n.AgentVersion]++
		}
		if len(n.Troubles) > 0 {
			trouble++
		}
		if n.Store.Known && n.Store.TotalBytes > 0 && (tightest == nil || n.share() < tightest.share()) {
			tightest = n
		}
	}
	row := []string{name, fmt.Sprint(len(nodes)), "", "", "", fmt.Sprintf("%d of %d", warm, wanted), "", versionsText(versions), ""}
	if known {
		row[2], row[3] = free.text(" GiB"), fmt.Sprintf("%d of %d", idle, gpus)
	}
	if told {
		row[4] = fmt.Sprintf("%d of %d", unallocated, gpus)
	}
	if tightest != nil {
		row[6] = fmt.Sprintf("%.0f%% on %s", 100*tightest.share(), tightest.Name)
	}
	if trouble > 0 {
		row[8] = count(trouble, "node")
	}
	return row
}

// share is how much of the store's file system is free.
func (n *Node) share() float64 { return float64(n.Store.FreeBytes) / float64(n.Store.TotalBytes) }

// span2 is the least and the most of some numbers.
type span2 struct {
	least, most int
	any         bool
}

func (s *span2) add(n int) {
	if !s.any {
		s.least, s.most, s.any = n, n, true
	}
	s.least, s.most = min(s.least, n), max(s.most, n)
}

func (s *span2) text(unit string) string {
	if s.least == s.most {
		return fmt.Sprintf("%d%s", s.least, unit)
	}
	return fmt.Sprintf("%d to %d%s", s.least, s.most, unit)
}

func versionsText(versions map[string]int) string {
	names := byCount(versions)
	if len(names) == 1 {
		return names[0]
	}
	var parts []string
	for i, v := range names {
		if i == 2 && len(names) > 3 {
			parts = append(parts, fmt.Sprintf("%d more", len(names)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%s (%d)", v, versions[v]))
	}
	return strings.Join(parts, ", ")
}

func someNames(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}

// troubleTable lists what somebody should look at, alike troubles together.
func (f *Fleet) troubleTable(v View) table {
	type key struct{ code, text string }
	nodes := map[key][]string{}
	var order []key
	for _, n := range f.Nodes {
		for _, tr := range n.Troubles {
			k := key{tr.Code, tr.Text}
			if nodes[k] == nil {
				order = append(order, k)
			}
			nodes[k] = append(nodes[k], n.Name)
		}
	}
	most, width := mostRows, 2*reasonWidth
	if v.Wide {
		most, width = len(order), maxText
	}
	var t table
	t.add("NODES", "TROUBLE", "WHAT")
	for i, k := range order {
		if i == most {
			t.add("...", "", fmt.Sprintf("%s more; --wide or --node show them", count(len(order)-i, "row")))
			break
		}
		text := k.text
		if k.code == TroubleThrottled {
			text += fmt.Sprintf("; %d of %s wait", len(nodes[k]), count(len(f.Nodes), "node"))
		}
		t.add(someNames(nodes[k], 3), k.code, brief(text, width))
	}
	return t
}
