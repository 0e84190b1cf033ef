package main

import (
	"fmt"
	"time"
)

// span is a duration as people say it: the two largest units.
func span(d time.Duration) string {
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	default:
		return fmt.Sprintf("%dd%02dh", s/(24*3600), s/3600%24)
	}
}

// seconds is span of a number of seconds.
func seconds(s float64) string { return span(time.Duration(s * float64(time.Second))) }

// until is the time left: "-" when there is no such moment.
func until(t, now time.Time) string {
	switch {
	case t.IsZero():
		return "-"
	case !t.After(now):
		return "now"
	default:
		return span(t.Sub(now))
	}
}

// in is until in a sentence.
func in(t, now time.Time) string {
	text := until(t, now)
	if text == "-" || text == "now" {
		return text
	}
	return "in " + text
}

// ago is the time gone by: "-" when there is no such moment.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(max(0, now.Sub(t))) + " ago"
}

// clock is a moment on the clock of whoever asks, with the date if it is another day.
func clock(t, now time.Time) string {
	t = t.In(now.Location())
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

func moment(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return clock(t, now) + ", " + ago(t, now)
}
