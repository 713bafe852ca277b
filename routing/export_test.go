package routing

// SetRandom has the router take its chances from f. Call it before it serves.
func (r *Router) SetRandom(f func() float64) { r.random = f }

// Copies is how many copies for mirrors are under way.
func (r *Router) Copies() int { return len(r.mirrors.slots) }
