package agent

// hideSecrets takes secrets out of what is to be written about models, before any of
// it is cut to its length.
func (a *Agent) hideSecrets(d decision) {
	for i := range d.Models {
		m := &d.Models[i]
		for _, text := range []*string{&m.Reason, &m.Hint, &m.NotInRAM} {
			*text = a.o.Secrets.Scrub(*text)
		}
	}
}

// hideInStatus takes secrets out of what else the annotation holds.
func (a *Agent) hideInStatus(s *NodeStatus) {
	texts := []*string{&s.GPUs.Reason, &s.GPUs.Name, &s.Store.Reason}
	for i := range s.Models {
		texts = append(texts, &s.Models[i].Source, &s.Models[i].Revision)
	}
	for _, text := range texts {
		*text = a.o.Secrets.Scrub(*text)
	}
}
