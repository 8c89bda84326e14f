// Package measure learns from replicas of vLLM that run what they take of a GPU's memory beside weights and KV cache,
// the term of `stoker fit` that is not computable. vLLM's metrics page has the number and the length of its cache's blocks,
// and the rest of the budget is what it took.
//
// Any pod may call itself a replica, so the page, and everything derived from it, is hostile: it is bounded, copied into
// numbers and short words at once, and what cannot be is dropped. Who is asked and what becomes of the answer is for
// package agent to decide.
package measure
