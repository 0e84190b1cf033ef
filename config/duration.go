package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span of the configuration. A bare number means seconds, fractions included; 500ms, 10s, 2h and
// 1h30m are understood too.
type Duration time.Duration

// D returns the span as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// maxDuration keeps sums and products of spans far away from an overflow.
const maxDuration = 100 * 365 * 24 * time.Hour

// ParseDuration reads a span. Negative, infinite and absurdly long spans (over 100 years) are errors.
func ParseDuration(s string) (Duration, error) {
	s = strings.TrimSpace(s)
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		if math.IsNaN(f) || f < 0 || f > maxDuration.Seconds() {
			return 0, fmt.Errorf("%q is no time span: want seconds from 0", s)
		}
		return Duration(math.Round(f * float64(time.Second))), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxDuration {
		return 0, fmt.Errorf("%q is no time span: want seconds (10, 0.5) or a number with a unit (500ms, 10s, 2h)", s)
	}
	return Duration(d), nil
}

// String returns the span as ParseDuration reads it: a bare number of seconds.
func (d Duration) String() string {
	return strconv.FormatFloat(d.D().Seconds(), 'f', -1, 64)
}

// MarshalJSON writes the span as a number of seconds.
func (d Duration) MarshalJSON() ([]byte, error) { return []byte(d.String()), nil }
