package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// parallel calls do with 0 to n-1 on a few goroutines and returns the first errors.
func parallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	const workers = 8
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		next atomic.Int64
		wg   sync.WaitGroup
		errs [workers]error
	)
	for w := range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[w] = do(ctx, i); errs[w] != nil {
					cancel()
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(append(errs[:], context.Cause(ctx))...)
}
