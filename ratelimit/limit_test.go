package ratelimit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseLimit(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in   string
		want Limit
		text string // "" is in
	}{
		{in: "1000/1m", want: Limit{Requests: 1000, Per: time.Minute}},
		{in: "100/1s,burst=200", want: Limit{Requests: 100, Per: time.Second, Burst: 200}},
		{in: "1/60s", want: Limit{Requests: 1, Per: time.Minute}, text: "1/1m"},
		{in: "5/24h", want: Limit{Requests: 5, Per: 24 * time.Hour}},
		{in: "5/10h", want: Limit{Requests: 5, Per: 10 * time.Hour}},
		{in: "5/90m", want: Limit{Requests: 5, Per: 90 * time.Minute}, text: "5/1h30m"},
		{in: "5/1h0m5s", want: Limit{Requests: 5, Per: time.Hour + 5*time.Second}},
		{in: "5/10s", want: Limit{Requests: 5, Per: 10 * time.Second}},
		{in: "5/1m10s", want: Limit{Requests: 5, Per: 70 * time.Second}},
		{in: "5/1h10m", want: Limit{Requests: 5, Per: 70 * time.Minute}},
		{in: "5/10m", want: Limit{Requests: 5, Per: 10 * time.Minute}},
		{in: "5/1.5s", want: Limit{Requests: 5, Per: 1500 * time.Millisecond}},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			t.Parallel()
			got, err := ParseLimit(tt.in)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			if tt.text == "" {
				tt.text = tt.in
			}
			assert.Equal(t, tt.text, got.String())
		})
	}
}

func TestParseLimitRefuses(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"", "/", "1000", "1000/", "/1m", "1000/m", "1000/60", "0/1m", "-1/1m", "+1/1m", " 1/1m", "1/1m ", "1 /1m",
		"1/0s", "1/-1m", "1/1us", "1/745h", "1000000001/1s", "99999999999999999999/1s", "1/1m,burst=", "1/1m,burst=0",
		"1/1m,burst=-1", "1/1m,burst=x", "1/1m,burst=1,burst=2", "1/1m,Burst=1", "1/1m,", "1/1m/1m", "1e3/1m",
		"1/1m,burst=1000000001",
	} {
		_, err := ParseLimit(in)
		assert.ErrorContains(t, err, "ratelimit: limit", "%q", in)
	}
}

func FuzzParseLimit(f *testing.F) {
	for _, s := range []string{"1000/1m", "100/1s,burst=200", "1/744h", "7/1h0m5s", "1/1.5ms", "00012/1m", "1/1m,burst=01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLimit(s)
		if err != nil {
			assert.Zero(t, l)
			return
		}
		assert.Empty(t, l.faults(""), "what is accepted is valid")
		again, err := ParseLimit(l.String())
		require.NoError(t, err)
		assert.Equal(t, l, again)
		assert.Equal(t, l.String(), again.String())
	})
}
