package grpcmesh

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/gatemesh-go/gatemesh"
)

// serverStream judges a stream again when a consent has ended.
type serverStream struct {
	grpc.ServerStream
	ctx   context.Context
	x     *gatemesh.Exchange
	ended atomic.Pointer[gatemesh.Denial]
}

func (s *serverStream) Context() context.Context { return s.ctx }

func (s *serverStream) SendMsg(m any) error {
	s.x.Responds(0)
	if err := s.renew(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *serverStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.renew() // the message may have come long after the last look
}

func (s *serverStream) renew() error {
	if !s.x.Bounded() {
		return nil
	}
	now := time.Now()
	if !s.x.Expired(now) {
		return nil
	}
	if d := s.x.Revalidate(s.ctx, now); d != nil {
		s.ended.Store(d)
		farewell(s.ctx, d)
		return Status(d).Err()
	}
	return nil
}

// watch judges the stream when a consent ends, also if nobody sends anything.
// A refusal ends the context of the handler; one that waits for a message
// instead is ended by [farewell]. The returned function ends the watch.
func (s *serverStream) watch() (end func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	s.ctx = ctx
	var (
		mu    sync.Mutex // a call is not looked at any more once it has ended
		over  bool
		timer *time.Timer
	)
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case over:
		case s.renew() != nil:
			cancel()
		default:
			if until := s.x.Until(); !until.IsZero() {
				timer.Reset(time.Until(until))
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(time.Until(s.x.Until()), look)
	return func() {
		cancel()
		mu.Lock()
		defer mu.Unlock()
		over = true
		timer.Stop()
	}
}
