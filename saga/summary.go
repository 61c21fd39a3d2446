package saga

import "unicode/utf8"

// maxBriefBytes keeps a line under Temporal's limit of 400 bytes for a summary,
// with its JSON quoting.
const maxBriefBytes = 200

// Brief shortens a text to what Temporal takes as a summary.
func Brief(text string) string { return Shorten(text, maxBriefBytes) }

// Shorten cuts a text to at most limit bytes, between two characters.
func Shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const ellipsis = "…"
	cut := limit - len(ellipsis)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + ellipsis
}
