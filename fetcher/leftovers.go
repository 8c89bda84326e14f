package fetcher

import (
	"path"
	"strings"
)

// notOfModel returns why a file is no part of a model at all, "" if it may be one:
// what an operating system or a training left behind.
func notOfModel(f File) string {
	base := path.Base(f.Path)
	switch base {
	case ".DS_Store", "Thumbs.db", "desktop.ini":
		return "of a file manager"
	case "training_args.bin", "scheduler.pt", "scheduler.bin", "scaler.pt":
		return "of a training"
	}
	switch {
	case strings.HasPrefix(base, "._"):
		return "of a file manager"
	case strings.HasPrefix(base, "optimizer") && f.hasSuffix(".pt", ".bin", ".pth", ".safetensors"),
		strings.HasPrefix(base, "rng_state"), strings.HasPrefix(base, "random_states_"),
		strings.HasSuffix(base, "_optim_states.pt"), strings.HasSuffix(base, "_model_states.pt"), // DeepSpeed
		strings.HasPrefix(base, "events.out.tfevents"), f.hasSuffix(".distcp"):
		return "of a training"
	}
	for dir := range strings.SplitSeq(path.Dir(f.Path), "/") {
		switch dir {
		case ".git", ".cache", ".ipynb_checkpoints", "__pycache__", "__MACOSX":
			return "of a program's own folder"
		}
	}
	return ""
}

// misplaced returns why a file is left out for the folder that it is in, "" if it is
// not: folders that hold the weights again, in another format or of an earlier time.
func misplaced(f File) string {
	dirs := strings.Split(f.Path, "/")
	dirs = dirs[:len(dirs)-1]
	for i, dir := range dirs {
		switch dir {
		case "original", "metal", "gguf", "mlx", "tflite":
			if i == 0 {
				return "a second set of weights in " + dir + "/"
			}
		case "checkpoints":
			if i == 0 {
				return "an earlier state of the training"
			}
		case "onnx", "openvino", "coreml":
			return "a second set of weights in " + dir + "/"
		}
		if step, ok := strings.CutPrefix(strings.ToLower(dir), "checkpoint-"); ok && isDigits(step) {
			return "an earlier state of the training"
		}
		if step, ok := strings.CutPrefix(dir, "global_step"); ok && isDigits(step) {
			return "an earlier state of the training"
		}
	}
	return ""
}

// foreign returns why a file is left out for its format, "" if it is not: what no vLLM
// reads, and GGUF, of which it reads a file that is named.
func foreign(f File) string {
	base := strings.ToLower(path.Base(f.Path))
	switch {
	case strings.HasPrefix(base, "openvino_"), strings.HasPrefix(base, "ggml"),
		strings.Contains(base, "imatrix") && f.hasSuffix(".bin", ".dat", ".imatrix"),
		strings.Contains(base, ".onnx"), strings.Contains(base, ".ckpt"), strings.Contains(f.Path, ".mlpackage/"), strings.Contains(f.Path, ".mlmodelc/"):
		return "of another program"
	case strings.Contains(base, ".tar."):
		return "an archive"
	}
	switch path.Ext(base) {
	case ".gguf":
		return "GGUF is loaded by its name only"
	case ".h5", ".keras", ".msgpack", ".ot", ".pb", ".pth", ".npz", ".tflite", ".task", ".litertlm", ".mlmodel", ".nemo",
		".pkl", ".mar", ".engine", ".plan", ".pdparams", ".pdmodel", ".pdiparams", ".ort", ".pte", ".rknn", ".mnn", ".llamafile":
		return "of another program"
	case ".tar", ".tgz", ".zip", ".7z", ".rar", ".bz2", ".xz", ".zst": // not .gz: tokenizers' code reads vocabularies in it
		return "an archive"
	case ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".bmp", ".tif", ".tiff", ".ico", ".avif", ".heic",
		".mp4", ".mov", ".avi", ".mkv", ".webm", ".mp3", ".wav", ".flac", ".ogg", ".m4a", ".pdf", ".ipynb", ".parquet", ".arrow":
		return "for people, not for a model"
	}
	return ""
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
