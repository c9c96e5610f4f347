package config

import (
	"slices"
	"strings"
)

// Nearest returns the one of names that a person most likely meant by name, or
// "": the least edit distance (a swap of neighbours counts one), at most a
// third of the length, rounded up.
func Nearest(name string, names []string) string {
	if len(name) > 64 {
		return ""
	}
	best, least := "", 0
	for _, n := range names {
		d := distance(strings.ToLower(name), strings.ToLower(n))
		if d > (max(len(name), len(n))+2)/3 || d >= max(len(name), len(n)) {
			continue
		}
		if best == "" || d < least {
			best, least = n, d
		}
	}
	return best
}

// meant is the hint at the nearest name, or the list of names.
func meant(name string, names []string, what string) string {
	if n := Nearest(name, names); n != "" {
		return "did you mean " + n + "?"
	}
	if len(names) == 0 {
		return "there are none"
	}
	names = slices.Sorted(slices.Values(names))
	return what + " are " + strings.Join(names, ", ")
}

// distance is the optimal string alignment distance of a and b, in bytes.
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
