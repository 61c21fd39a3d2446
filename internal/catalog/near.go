package catalog

import (
	"slices"
	"strings"
)

// near returns a hint with the names that were probably meant, or nothing.
func near(name string, names []string) string {
	type candidate struct {
		name     string
		distance int
	}
	limit := max(1, len(name)/4)
	var candidates []candidate
	for _, other := range names {
		d := distance(strings.ToLower(name), strings.ToLower(other))
		if bareName(name) == bareName(other) {
			d = 0 // the same table in another schema
		}
		if d <= limit {
			candidates = append(candidates, candidate{other, d})
		}
	}
	slices.SortStableFunc(candidates, func(a, b candidate) int { return a.distance - b.distance })
	var hints []string
	for _, c := range candidates[:min(3, len(candidates))] {
		hints = append(hints, c.name)
	}
	if len(hints) == 0 {
		return ""
	}
	return ": did you mean " + oneOf(hints) + "?"
}

func bareName(name string) string { return name[strings.IndexByte(name, '.')+1:] }

// distance is Levenshtein's: how many letters to add, drop or change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
