package measure

import (
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/stoker-project/stoker/gpu/sizing"
	"github.com/stoker-project/stoker/gpu/sizing/serveline"
)

// vLLM's arguments that split a model over GPUs, the long name first (engine/arg_utils.py).
func splitFlags() [][]string {
	return [][]string{
		{"--tensor-parallel-size", "-tp"},
		{"--pipeline-parallel-size", "-pp"},
		{"--data-parallel-size", "-dp"},
		{"--decode-context-parallel-size", "-dcp"},
		{"--prefill-context-parallel-size", "-pcp"},
	}
}

// unclear stands for a value that is no number, as one from the environment.
const unclear = "?"

// otherwise stands for every argument that changes what vLLM takes, or may. vLLM has no such option.
const otherwise = "--takes-otherwise=" + unclear

// SplitArgs keeps of a container's command and arguments how vLLM splits the model over GPUs, whether anything else in it
// changes what vLLM takes, and nothing more: a command line may hold keys. It may be a shell's script, so words are taken as
// they come, from the line on that starts vLLM. A command without such a line may do anything, and so may variables, which
// are not looked up, and two such lines. Without a command, the arguments are those of an image that starts vLLM. Applied to
// its own result as arguments, SplitArgs changes nothing.
func SplitArgs(command, args []string) []string {
	flags := splitFlags()
	var words, rest, out []string
	for _, c := range slices.Concat(command, args) {
		words = append(words, strings.FieldsFunc(c, func(r rune) bool { return strings.ContainsRune(" \t\n\r\\\"';&|", r) })...)
	}
	unclearWord := slices.ContainsFunc(words, func(w string) bool { return setsVLLM(w) })
	begin, lines := serveLine(words)
	words = words[begin:]
	for i, w := range words {
		flag, value, joined := strings.Cut(w, "=")
		if strings.HasPrefix(flag, "--") {
			flag = strings.ReplaceAll(flag, "_", "-") // vLLM takes both
		}
		at := slices.IndexFunc(flags, func(names []string) bool { return slices.Contains(names, flag) })
		if at < 0 {
			unclearWord = unclearWord || strings.ContainsAny(w, "$`")
			rest = append(rest, w)
			continue
		}
		if !joined && i+1 < len(words) {
			value = words[i+1]
		}
		if n, err := strconv.ParseUint(value, 10, 16); err != nil || n == 0 {
			value = unclear
		}
		out = append(out, flags[at][0]+"="+value)
	}
	s, err := serveline.Read(sizing.Serving{}, rest, openNothing)
	if err != nil || s.TakesOtherwise() || unclearWord || lines > 1 || lines == 0 && len(command) > 0 {
		out = append(out, otherwise)
	}
	return out
}

// setsVLLM reports whether a word of a command line sets a variable that vLLM reads.
func setsVLLM(word string) bool {
	name, _, sets := strings.Cut(word, "=")
	return sets && strings.HasPrefix(name, "VLLM_")
}

// serveLine returns where the words behind the first line that starts vLLM's server begin, and how many such lines there are.
func serveLine(words []string) (begin, lines int) {
	for i, w := range words {
		starts := w == "vllm.entrypoints.openai.api_server" || strings.HasSuffix(w, "vllm/entrypoints/openai/api_server.py")
		if !starts && w == "serve" && i > 0 {
			before := path.Base(words[i-1])
			starts = before == "vllm" || before == "vllm.entrypoints.cli.main"
		}
		if starts {
			if lines++; lines == 1 {
				begin = i + 1
			}
		}
	}
	return begin, lines
}

// openNothing is for the files that --config names: they are the replica's own.
func openNothing(string) ([]byte, error) { return nil, errors.New("it is in the replica") }

// TensorParallel is over how many GPUs the arguments that SplitArgs kept split a model, if they split it in no other way
// and change nothing else of what vLLM takes; 0 if they do, or if that is unclear. Without arguments it is vLLM's default, 1, unless the caller knows better: stated
// is false.
func TensorParallel(kept []string) (gpus int, stated bool) {
	gpus = 1
	tensor := splitFlags()[0][0]
	for _, arg := range kept {
		flag, value, _ := strings.Cut(arg, "=")
		n, err := strconv.Atoi(value)
		switch {
		case err != nil:
			return 0, true
		case flag == tensor:
			gpus, stated = n, true
		case n != 1:
			return 0, true
		}
	}
	return gpus, stated
}

// ImageVersion is the release of vLLM that an image's tag names, like 0.33.0; "" if it names none. Applied to its own
// result, it changes nothing.
func ImageVersion(image string) string {
	image, _, _ = strings.Cut(image, "@")
	tag := strings.TrimPrefix(image[strings.LastIndexAny(image, ":/")+1:], "v")
	if end := strings.IndexFunc(tag, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }); end >= 0 {
		if !strings.ContainsRune("-+_", rune(tag[end])) {
			return ""
		}
		tag = tag[:end]
	}
	parts := strings.Split(tag, ".")
	if len(parts) < 2 || len(parts) > 3 || parts[0] != "0" || slices.ContainsFunc(parts, func(p string) bool { return p == "" || len(p) > 3 }) {
		return ""
	}
	return tag
}
