package follow

import (
	"context"

	"github.com/gatemesh-go/gatemesh"
)

// Teller tells an Observer what became of files, in words of their own.
type Teller struct {
	Observer gatemesh.Observer // nil is nobody
	Layer    string
	// Loaded and Restored are notices, Faulty is a fault. What has no words is
	// not told.
	Loaded, Faulty, Restored string
}

// Tell is for [Config].
func (t Teller) Tell(news News, err error) {
	e := gatemesh.Event{Kind: gatemesh.EventNotice, Layer: t.Layer, Err: err}
	switch news {
	case Loaded:
		e.Message = t.Loaded
	case Faulty:
		e.Kind, e.Message = gatemesh.EventFault, t.Faulty
	case Restored:
		e.Message = t.Restored
	}
	if t.Observer != nil && e.Message != "" {
		t.Observer.Observe(context.Background(), e)
	}
}
