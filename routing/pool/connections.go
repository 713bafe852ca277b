package pool

// dropIdle closes the idle connections to e.
func (p *Pool) dropIdle(e *Endpoint) {}
