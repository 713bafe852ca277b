package canary_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gatemesh-go/gatemesh/canary"
)

func get(h http.Handler, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", target, nil))
	return w
}

func post(h http.Handler, form url.Values, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/rollouts", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestPage(t *testing.T) {
	t.Parallel()
	r := rolloutAt(t, 12.5)
	odd := rolloutAt(t, 1, func(cfg *canary.RolloutConfig) {
		cfg.Service, cfg.Canary, cfg.ID = `<script>alert(1)</script>`, `"><img src=x>`, `'&<b>`
	})
	h := canary.NewPage(canary.PageConfig{Rollouts: []*canary.Rollout{r, odd}})
	w := get(h, "/rollouts")
	require.Equal(t, 200, w.Code)
	body := w.Body.String()
	assert.Contains(t, body, "orders.production")
	assert.Contains(t, body, "begins: v2 gets 12.5 %, step 1 of 1")
	assert.Contains(t, body, "87.5 %")
	for _, raw := range []string{"<script", "<img", "<b>", "http://", "https://", "url(", "<button", "javascript:", "ZgotmplZ", `style="`} {
		assert.NotContains(t, body, raw)
	}
	assert.Contains(t, body, "&lt;script&gt;alert(1)&lt;/script&gt;")
	assert.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'; style-src 'sha256-")
	assert.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))

	w = get(h, "/rollouts?format=json")
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	var all []canary.Status
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &all))
	require.Len(t, all, 2)
	assert.Equal(t, "orders", all[0].Service)
	assert.Equal(t, canary.Paused, all[0].State.Phase)
	assert.InDelta(t, 0.125, all[0].Versions[1].Share, 1e-9)

	w = post(h, url.Values{"service": {"orders"}, "namespace": {"production"}, "action": {"promote"}})
	assert.Equal(t, http.StatusMethodNotAllowed, w.Code, "it only shows")
	assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
	assert.Equal(t, canary.Paused, r.Status().State.Phase)
	assert.Contains(t, get(canary.NewPage(canary.PageConfig{}), "/").Body.String(), "There is no rollout")
}

func TestPageActions(t *testing.T) {
	t.Parallel()
	r := rolloutAt(t, 10)
	h := canary.NewPage(canary.PageConfig{Rollouts: []*canary.Rollout{r}, Actions: true})
	assert.Contains(t, get(h, "/rollouts").Body.String(), `value="resume"`)
	form := func(service, action string) url.Values {
		return url.Values{"service": {service}, "namespace": {"production"}, "action": {action}}
	}
	for name, header := range map[string][]string{
		"another site":   {"Sec-Fetch-Site", "cross-site"},
		"another origin": {"Origin", "https://evil.example"},
	} {
		assert.Equal(t, http.StatusForbidden, post(h, form("orders", "promote"), header...).Code, name)
	}
	assert.Equal(t, canary.Paused, r.Status().State.Phase)
	assert.Equal(t, http.StatusMethodNotAllowed, request(h, "DELETE").Code)
	assert.Equal(t, http.StatusNotFound, post(h, form("other", "promote")).Code)
	assert.Equal(t, http.StatusBadRequest, post(h, form("orders", "explode")).Code)
	assert.Equal(t, http.StatusBadRequest, post(h, url.Values{"action": {strings.Repeat("x", 10<<10)}}).Code)
	// The query is no form: a link must not act.
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("POST", "/rollouts?"+form("orders", "promote").Encode(), nil))
	assert.Equal(t, http.StatusNotFound, w.Code)

	// A button that was shown before the last change.
	for _, action := range []string{"resume", "promote"} {
		for change, want := range map[string]int{"7": http.StatusConflict, "0x1": http.StatusBadRequest, "": http.StatusBadRequest, "-1": http.StatusBadRequest} {
			old := form("orders", action)
			old.Set("change", change)
			assert.Equal(t, want, post(h, old).Code, "%s %q", action, change)
		}
	}
	assert.Equal(t, canary.Paused, r.Status().State.Phase)

	// Anybody may read, and nothing is done by it.
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/rollouts?"+form("orders", "promote").Encode(), nil))
	assert.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, canary.Paused, r.Status().State.Phase)

	w = httptest.NewRecorder()
	elsewhere := httptest.NewRequest("POST", "/", strings.NewReader(form("orders", "pause").Encode()))
	elsewhere.URL.Path = "//evil.example/"
	elsewhere.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	h.ServeHTTP(w, elsewhere)
	assert.Equal(t, "/evil.example/", w.Header().Get("Location"), "it stays on this site")

	w = post(h, form("orders", "abort"), "Sec-Fetch-Site", "same-origin")
	require.Equal(t, http.StatusSeeOther, w.Code)
	assert.Equal(t, "/rollouts", w.Header().Get("Location"))
	assert.Equal(t, canary.RolledBack, r.Status().State.Phase)
	assert.Equal(t, http.StatusConflict, post(h, form("orders", "resume")).Code)
	assert.NotContains(t, get(h, "/rollouts").Body.String(), "<button", "nothing is left to do")
}

func request(h http.Handler, method string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, "/rollouts", nil))
	return w
}

// TestAButtonPressedTwice ends one pause and not the next one, too.
func TestAButtonPressedTwice(t *testing.T) {
	t.Parallel()
	r := rolloutAt(t, 10, func(cfg *canary.RolloutConfig) {
		cfg.Steps = append(cfg.Steps, canary.Step{Percent: 20, Pause: true}, canary.Step{Percent: 50, Pause: true})
	})
	h := canary.NewPage(canary.PageConfig{Rollouts: []*canary.Rollout{r}, Actions: true})
	shown := regexp.MustCompile(`name="change" value="(\d+)"`).FindStringSubmatch(get(h, "/").Body.String())
	require.Len(t, shown, 2)
	form := url.Values{"service": {"orders"}, "namespace": {"production"}, "action": {"resume"}, "change": {shown[1]}}
	codes := make(chan int, 2)
	for range 2 {
		go func() { codes <- post(h, form).Code }()
	}
	assert.ElementsMatch(t, []int{http.StatusSeeOther, http.StatusConflict}, []int{<-codes, <-codes})
	assert.InDelta(t, 0.2, r.Status().Versions[1].Share, 1e-9)
}

// TestPageLoadsNothing walks through the elements: none runs anything or refers
// to anything, whatever the names, and the one style is what the policy allows.
func TestPageLoadsNothing(t *testing.T) {
	t.Parallel()
	const evil = `"></style><script src=//evil.example></script><img src=x onerror=alert(1)>{{.}}\u2028`
	r := rolloutAt(t, 12.5, func(cfg *canary.RolloutConfig) {
		cfg.Service, cfg.Namespace, cfg.Stable, cfg.Canary, cfg.ID = evil+"s", evil+"n", evil+"1", evil+"2", evil+"i"
	})
	back := rolloutAt(t, 50)
	require.NoError(t, back.Abort(t.Context()))
	w := get(canary.NewPage(canary.PageConfig{Rollouts: []*canary.Rollout{r, back}, Actions: true}), "/")
	require.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))

	attributes := map[string]string{ // of each element
		"html": "lang", "head": "", "meta": "charset name content http-equiv", "title": "", "style": "", "body": "", "header": "", "h1": "",
		"p": "class", "a": "href", "main": "", "section": "", "div": "class aria-hidden", "h2": "", "span": "class", "i": "class",
		"svg": "class viewBox preserveAspectRatio role aria-label", "rect": "class x y width height", "line": "class x1 x2 y1 y2",
		"polygon": "class points", "polyline": "class points", "table": "", "thead": "", "tbody": "", "tr": "", "th": "", "td": "class",
		"form": "method", "input": "type name value", "button": "name value class", "ol": "", "li": "", "time": "",
	}
	d := xml.NewDecoder(strings.NewReader(w.Body.String()))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	seen, open, style := map[string]int{}, []string{}, ""
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		switch e := token.(type) {
		case xml.StartElement:
			name := e.Name.Local
			allowed, ok := attributes[name]
			require.True(t, ok, name)
			for _, a := range e.Attr {
				require.Contains(t, strings.Fields(allowed), a.Name.Local, name)
				if a.Name.Local == "href" {
					require.Equal(t, "?format=json", a.Value)
				}
			}
			seen[name]++
			open = append(open, name)
		case xml.EndElement:
			require.Equal(t, open[len(open)-1], e.Name.Local)
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 && open[len(open)-1] == "style" {
				style += string(e)
			}
		}
	}
	assert.Empty(t, open)
	assert.Equal(t, [4]int{2, 1, 3, 1}, [4]int{seen["section"], seen["form"], seen["button"], seen["style"]}, "what has ended has no buttons")
	sum := sha256.Sum256([]byte(style))
	assert.Equal(t, "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+
		"'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'", w.Header().Get("Content-Security-Policy"))
	assert.Equal(t, "no-referrer", w.Header().Get("Referrer-Policy"))
}
