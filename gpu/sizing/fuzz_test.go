package sizing

import (
	"bytes"
	"encoding/binary"
	"testing"
	"testing/fstest"
)

func FuzzReadHeader(f *testing.F) {
	good, size := header(f, tensor{"a", "BF16", []uint64{2, 3}}, tensor{"b", "F4", []uint64{4}})
	f.Add(good, size)
	f.Add(raw(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}`), int64(200))
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 255, '{'}, int64(-1))
	f.Add(raw(`{"a":{"dtype":"U8","shape":[18446744073709551615,2],"data_offsets":[0,18446744073709551615]}}`), int64(1)<<62)
	f.Fuzz(func(t *testing.T, data []byte, size int64) {
		var sum uint64
		err := ReadHeader(bytes.NewReader(data), size, func(x Tensor) error {
			sum = add(sum, x.Bytes)
			return nil
		})
		if err != nil {
			return
		}
		// What is accepted fills the file exactly.
		var length uint64
		for i := range 8 {
			length |= uint64(data[i]) << (8 * i)
		}
		if size < 0 || sum != uint64(size)-8-length {
			t.Errorf("tensors of %d bytes accepted in a file of %d with a header of %d", sum, size, length)
		}
	})
}

func FuzzParams(f *testing.F) {
	for _, c := range mistralConfigs() {
		f.Add([]byte(c[0]), []byte(c[1]))
	}
	f.Add([]byte(`{"n_layers": 3, "sliding_window": [null, 4], "moe": {"num_experts_per_tok": 1e9}, "yarn": {"factor": 1e300}}`), []byte(`{"text_config": {}}`))
	f.Fuzz(func(t *testing.T, params, config []byte) {
		m, err := ReadModel(mistralModel(t, string(params), string(config)))
		if err == nil && len(m.Architecture.Notes) > 0 != m.Architecture.Estimated {
			t.Errorf("estimated is %v with the notes %q", m.Architecture.Estimated, m.Architecture.Notes)
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(llama8BConfig), 2, int64(4096))
	f.Add([]byte(`{"model_type":"deepseek_v3","kv_lora_rank":512,"qk_rope_head_dim":64,"num_hidden_layers":61,"num_attention_heads":128}`), 8, int64(0))
	f.Add([]byte(`{"text_config":{"layer_types":["full_attention","mamba"],"sliding_window":4,"num_hidden_layers":3}}`), 1, int64(1))
	f.Add([]byte(`{"attn_layer_period":8,"attn_layer_offset":4,"num_hidden_layers":1e12,"head_dim":[1,2],"quantization_config":{"bits":4}}`), 1, int64(9))
	f.Add([]byte(`{"model_type":"mamba","state_size":16,"rope_scaling":{"rope_type":"yarn","factor":1e300}}`), 0, int64(-1))
	f.Fuzz(func(t *testing.T, config []byte, tp int, length int64) {
		m, err := ReadModel(tiny(t, string(config)))
		if err != nil {
			return
		}
		if len(m.Architecture.Notes) > 0 != m.Architecture.Estimated {
			t.Errorf("estimated is %v with the notes %q", m.Architecture.Estimated, m.Architecture.Notes)
		}
		for _, s := range report(t, m, Serving{}, board(4, l4)).TensorParallelSizes {
			if (s.Impossible == "") != (s.Need != nil) {
				t.Errorf("%+v", s)
			}
		}
		for _, s := range []Serving{
			{PipelineParallel: 3, MaxNumSeqs: 1, EnforceEager: true},
			{PipelineParallel: mostStages, Dtype: "float32"},
			{MaxModelLen: AutoLength, MaxNumBatchedTokens: 1, CPUOffloadGB: 1e9},
			{Quantization: "fp8", WholePrompts: true, KVCacheDtype: "nvfp4"},
		} {
			if n, err := m.Need(s); err == nil && (n.OverheadMinBytes > n.OverheadMaxBytes || n.TotalBytes() < n.KVBytes) {
				t.Errorf("%+v: %+v", s, n)
			}
		}
		n, err := m.Need(Serving{TensorParallel: tp, MaxModelLen: length})
		if err != nil {
			return
		}
		longest := n.LargestMaxModelLen(l4, n.MaxModelLen)
		if longest < 0 || longest > n.MaxModelLen {
			t.Errorf("largest max-model-len %d for %d tokens", longest, n.MaxModelLen)
		}
		if n.KVKnown && !n.AutoLength && n.Fits(l4, l4) != (longest == n.MaxModelLen) {
			t.Errorf("fits is %v, but the largest max-model-len is %d of %d", n.Fits(l4, l4), longest, n.MaxModelLen)
		}
		if n.CacheTokens(l4, n.OverheadMaxBytes) > n.CacheTokens(l4, n.OverheadMinBytes) {
			t.Errorf("more overhead leaves more cache: %+v", n)
		}
	})
}

// FuzzModel: an index, and two files that it may name. What is accepted is no
// more than the files hold.
func FuzzModel(f *testing.F) {
	a, _ := header(f, tensor{"model.embed_tokens.weight", "BF16", []uint64{4, 4}}, tensor{"mtp.x", "F32", []uint64{2, 2}})
	b, _ := header(f, tensor{"lm_head.weight", "BF16", []uint64{4, 4}}, tensor{"model.layers.1.self_attn.k_proj.weight", "U8", []uint64{4, 4}})
	f.Add([]byte(`{"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}`), a, b, []byte(`{"tie_word_embeddings":true,"quantization_config":{"bits":4}}`))
	f.Add([]byte(`{"weight_map":{"x":"a.safetensors"}}`), a, a, []byte(`{"num_hidden_layers":1,"num_nextn_predict_layers":1}`))
	f.Add([]byte(`{"weight_map":{"x":"../a"}}`), a, b, []byte(`{}`))
	f.Add([]byte(`{}`), a, a, []byte(`{"x":NaN}`))
	f.Add([]byte(``), a, a, []byte(`{"tie_word_embeddings":true}`))
	f.Fuzz(func(t *testing.T, index, a, b, config []byte) {
		m := newModel(string(config))
		var data uint64
		for name, content := range map[string][]byte{"a.safetensors": a, "b.safetensors": b} {
			// As large as the tensors say, so that some are accepted.
			tensors, _ := readHeaderOf(content, 1<<40)
			size := 8 + int64(len(content))
			if len(content) >= 8 {
				size = 8 + int64(binary.LittleEndian.Uint64(content)&(1<<32-1))
				for _, x := range tensors {
					size += int64(x.Bytes & (1<<40 - 1))
					data = add(data, x.Bytes)
				}
			}
			m.MapFS[name], m.sizes[name] = &fstest.MapFile{Data: content}, size
		}
		if len(index) > 0 {
			m.file("model.safetensors.index.json", string(index))
		}
		got, err := ReadModel(m)
		if err != nil {
			return
		}
		w := got.Weights
		if w.Bytes > data || w.LoadedBytes > 2*w.Bytes || w.ReplicatedBytes > w.LoadedBytes+w.Bytes || w.KVProjectionBytes > 2*w.Bytes {
			t.Errorf("files of %d bytes hold %+v", data, w)
		}
		var sum uint64
		for _, bytes := range w.ByDType {
			sum = add(sum, bytes)
		}
		if sum != w.Bytes {
			t.Errorf("%d bytes by type, %d in all", sum, w.Bytes)
		}
		for tp := 1; tp <= 64; tp *= 2 {
			if n, err := got.Need(Serving{TensorParallel: tp}); err == nil && n.TotalBytes() < n.WeightsBytes {
				t.Errorf("%d GPUs: the whole is less than a part: %+v", tp, n)
			}
		}
	})
}
